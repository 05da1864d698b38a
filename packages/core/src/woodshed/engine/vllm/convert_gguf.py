"""`python -m woodshed.engine.vllm.convert_gguf FILE FOLDER`: write a GGUF file down as a model folder.

transformers dequantises the weights and rebuilds the tokenizer. It refuses to save a model that it has read so, hence
the plain tensors are saved here, with the config and without its note about quantisation. The last line of standard
output is JSON: `{"notes": [...]}`, or `{"error": "..."}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Names of ways to split text before BPE that are GPT-2's own, which transformers takes where it knows no other.
_SPLIT_LIKE_GPT2 = {"", "default", "gpt-2", "smollm", "olmo", "gigachat"}


class _Unusable(Exception):
    """The file cannot become a model; says why and what to do."""


def convert(file: Path, folder: Path) -> list[str]:
    """Write the model in `file` to `folder`; returns what the user should know about it."""
    metadata = _metadata(file)
    architecture = str(metadata.get("general.architecture", ""))
    import torch
    from huggingface_hub import save_torch_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given: Any = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**given)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise _Unusable(
            f"transformers cannot read its architecture {architecture!r} ({error}). Give the folder or hub name of the "
            "model that the file was made from"
        ) from error
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_torch_state_dict(weights, folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    # Last: a folder without it is no model.
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return list(_notes(metadata, tokenizer))


def _metadata(file: Path) -> dict[str, Any]:
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        end = max((int(t.data_offset) + int(t.n_bytes) for t in reader.tensors), default=0)
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise _Unusable(
            f"it is damaged or cut short: {file.stat().st_size} bytes, which do not hold what its header announces "
            f"({error}). Fetch it again, and compare its size and hash with the publisher's"
        ) from error
    if end > file.stat().st_size:
        raise _Unusable(f"it is cut short: {file.stat().st_size} bytes of {end}. Fetch it again")
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    if int(metadata.get("split.count", 1) or 1) > 1:
        raise _Unusable(
            f"it is one part of {metadata['split.count']}. Join them with llama.cpp's `gguf-split --merge` first"
        )
    if "tokenizer.ggml.tokens" not in metadata:
        raise _Unusable("it has no tokenizer. Give the folder or hub name of the model that it was made from")
    return metadata


def _notes(metadata: dict[str, Any], tokenizer: Any) -> list[str]:
    from transformers.integrations.gguf import gguf_tokenizer_mapping as known

    notes = []
    if not tokenizer.chat_template:
        notes.append("it has no chat template; give one with Policy(chat_template='FILE.jinja')")
    split = str(metadata.get("tokenizer.ggml.pre", ""))
    byte_level = metadata.get("tokenizer.ggml.model") == "gpt2"
    if byte_level and split not in {*known.GGUF_PRE_TOKENIZER_SPLITS, *_SPLIT_LIKE_GPT2}:
        notes.append(
            f"transformers does not know its way {split!r} of splitting text and takes GPT-2's: some words may become "
            "other tokens than the model was trained with. The original model's folder avoids that"
        )
    return notes


def main() -> None:
    """Convert, and tell how it ended."""
    file, folder = map(Path, sys.argv[1:])
    try:
        told: dict[str, Any] = {"notes": convert(file, folder)}
    except _Unusable as error:
        told = {"error": str(error)}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
