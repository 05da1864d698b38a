"""Write a model as a GGUF file, by the `gguf` package's writer, names and quantisation; and read it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from woodshed.engine.export.gguf_tokenizer import add_tokenizer
from woodshed.errors import EngineError
from woodshed.types import Quantisation

# Dense decoders whose weights GGUF holds as they are, except for the rows of `_INTERLEAVED`.
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_INTERLEAVED = {gguf.MODEL_ARCH.LLAMA}
"""llama.cpp rotates neighbouring rows of these, transformers the two halves of a head."""
_INSTEAD = (
    "Export with --merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py, which knows many more models"
)
_READ = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
"""What transformers must find in a file as it was written; the log-probabilities show the rest."""
_TEXTS = ("Hello world!", "It costs 12345.67, don't ask.\n\n  Twice\tthat.", "naïve İstanbul 日本語 🙂")


def write_gguf(file: Path, model: Any, texts: Path, quantisation: Quantisation, *, name: str) -> dict[str, Any]:
    """Write `model`, with the tokenizer in the folder `texts`; return transformers' name → the tensor as it is held.

    Raises:
        EngineError: GGUF of such a model, or of its tokenizer, isn't written here.
    """
    architecture = _architecture(model.config)
    writer = gguf.GGUFWriter(str(file), gguf.MODEL_ARCH_NAMES[architecture])
    kind = gguf.GGMLQuantizationType[quantisation]
    _add_settings(writer, model.config, quantisation, name)
    add_tokenizer(writer, texts, vocabulary=model.config.vocab_size, instead=_INSTEAD)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    held = {}
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if (target := names.get_name(key, try_suffixes=(".weight", ".bias"))) is None:
            raise EngineError(f"GGUF has no place for the weights {key!r}. {_INSTEAD}")
        array = tensor.float().cpu().numpy()
        heads = _heads(key, model.config) if architecture in _INTERLEAVED else None
        stored = _stored_kind(array, kind)
        quantised = gguf.quantize(array if heads is None else _interleaved(array, heads), stored)
        writer.add_tensor(target, quantised, raw_dtype=stored)
        # Rows are quantised one by one, so their order makes no difference.
        held[key] = torch.from_numpy(np.array(gguf.dequantize(gguf.quantize(array, stored), stored)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def read_back(file: Path, held: dict[str, Any], config: Any, tokenizer: Any) -> tuple[Any, float, list[str]]:
    """Load a file by transformers; return the model, the largest difference of a weight, and what to know.

    Raises:
        EngineError: It is not the model that was written.
    """
    given: Any = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoConfig.from_pretrained(**given)
    pairs = {name: (getattr(read, name, None), getattr(config, name, None)) for name in _READ}
    if differing := {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}:
        found_expected = ", ".join(f"{name} as {a!r} instead of {b!r}" for name, (a, b) in differing.items())
        raise EngineError(f"transformers would read {found_expected} from a GGUF file of this model. {_INSTEAD}")
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    found = model.state_dict()
    missing = sorted(key for key, tensor in held.items() if key not in found or found[key].shape != tensor.shape)
    difference = max(float((found[key] - tensor).abs().max()) for key, tensor in held.items() if key not in missing)
    if missing or difference > 0:
        raise EngineError(
            f"{file.name} does not hold the weights that were written (missing: {missing[:3]}, largest difference: "
            f"{difference:.3g}), so it was not kept. {_INSTEAD}"
        )
    again = AutoTokenizer.from_pretrained(**given)
    notes = []
    if unlike := [text for text in _TEXTS if again.encode(text) != tokenizer.encode(text)]:
        notes.append(
            f"transformers splits some texts of the GGUF file's tokenizer otherwise than the base model's, such as "
            f"{unlike[0]!r}; llama.cpp has its own reading"
        )
    return model.eval(), difference, notes


def licence_of(file: Path) -> str | None:
    """Return the licence that a GGUF file names, if it does."""
    field = gguf.GGUFReader(file).fields.get("general.license")
    return None if field is None else str(field.contents())


def _architecture(config: Any) -> gguf.MODEL_ARCH:
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    unsaid = [
        what
        for what, is_so in (
            (f"model type {config.model_type!r}", config.model_type not in _ARCHITECTURES),
            (f"rope type {rope!r}", rope != "default"),
            (f"sliding window {window}", window is not None),
            (f"activation {getattr(config, 'hidden_act', None)!r}", getattr(config, "hidden_act", "silu") != "silu"),
        )
        if is_so
    ]
    if unsaid:
        raise EngineError(
            f"no GGUF file is written of a model with {', '.join(unsaid)}; expected one of {sorted(_ARCHITECTURES)} "
            f"with plain rotary positions. {_INSTEAD}"
        )
    return _ARCHITECTURES[config.model_type]


def _add_settings(writer: gguf.GGUFWriter, config: Any, quantisation: Quantisation, name: str) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = quantisation if quantisation in ("F32",) else f"MOSTLY_{quantisation}"
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _stored_kind(array: Any, kind: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    """Return how a tensor is held: norms and biases in F32, rows that don't divide into blocks in F16."""
    if array.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if array.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _heads(key: str, config: Any) -> int | None:
    if ".q_proj." in key:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".k_proj." in key else None


def _interleaved(array: Any, heads: int) -> Any:
    rest = array.shape[1:]
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(array.shape)
