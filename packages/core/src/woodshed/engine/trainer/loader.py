"""A base model with a LoRA, ready to be trained: loaded by transformers and PEFT, or by Unsloth on a GPU.

Unsloth changes how a model is loaded (its own kernels, 4 bits), not how it is trained: step, loss and checkpoints are
the same. Trainer and vLLM share a GPU by a fixed split: vLLM takes `ServedModel.gpu_memory_fraction` when it starts,
which is before a policy is opened, and a step plans with what is left (`memory.available_bytes`).
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from woodshed.engine.trainer.backend import choose_loader
from woodshed.engine.trainer.precision import faster_dtype
from woodshed.errors import TrainError
from woodshed.types import LoraSettings, OpenPolicy

_log = logging.getLogger("woodshed.trainer")


def load_with_lora(
    model_path: str, settings: OpenPolicy, device: torch.device, dtype: torch.dtype | None = None
) -> Any:
    """Return a PEFT model on `device` whose LoRA does not change the base model yet.

    The base model is in `dtype`, by default the one in which this device trains faster.

    Raises:
        TrainError: The model cannot be loaded, its LoRA does not fit, or Unsloth is needed and cannot run here.
    """
    loader = choose_loader(settings, cuda=device.type == "cuda")
    _log.info("%r is loaded by %s", settings.name, loader)
    load = _by_unsloth if loader == "unsloth" else _by_peft
    return load(model_path, settings, device, dtype or faster_dtype(device.type))


def _by_peft(model_path: str, settings: OpenPolicy, device: torch.device, dtype: torch.dtype) -> Any:
    try:
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError) as error:
        raise _not_loaded(model_path, error) from error
    try:
        return get_peft_model(model.to(device), _lora_config(settings.lora, model_path))
    except ValueError as error:
        raise _not_fitting(settings.lora, model_path, error) from error


def _by_unsloth(model_path: str, settings: OpenPolicy, device: torch.device, dtype: torch.dtype) -> Any:
    # Imported by name, because a machine without a GPU has no Unsloth whose types could be checked.
    fast: Any = importlib.import_module("unsloth").FastLanguageModel
    try:
        model, _ = fast.from_pretrained(
            model_name=model_path,
            # Its forward pass would silently cut a longer sequence.
            max_seq_length=AutoConfig.from_pretrained(model_path).max_position_embeddings,
            dtype=dtype,
            load_in_4bit=settings.load_in_4bit,
            # vLLM runs in its own process, and gradient checkpointing is done by `attention.decoder`.
            fast_inference=False,
            use_gradient_checkpointing=False,
            device_map={"": device.index or 0},
            random_state=settings.seed,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _not_loaded(model_path, error) from error
    lora = settings.lora
    try:
        return fast.get_peft_model(
            model,
            r=lora.rank,
            lora_alpha=_without_fraction(lora.alpha),
            target_modules=list(lora.targets),
            lora_dropout=0.0,
            bias="none",
            use_gradient_checkpointing=False,
            random_state=settings.seed,
        )
    except (TypeError, ValueError) as error:
        raise _not_fitting(lora, model_path, error) from error


def _lora_config(lora: LoraSettings, model_path: str) -> LoraConfig:
    return LoraConfig(
        r=lora.rank,
        lora_alpha=_without_fraction(lora.alpha),
        target_modules=list(lora.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model_path,
    )


def _without_fraction(alpha: float) -> Any:
    """Return 32.0 as the integer 32, which is how PEFT writes it."""
    return int(alpha) if alpha.is_integer() else alpha


def _not_loaded(model_path: str, error: Exception) -> TrainError:
    return TrainError(
        f"{model_path!r} cannot be loaded as a causal language model ({error}); "
        "name a folder with config.json and safetensors, or a model of the hub"
    )


def _not_fitting(lora: LoraSettings, model_path: str, error: Exception) -> TrainError:
    return TrainError(f"LoRA targets {list(lora.targets)} do not fit {model_path!r}: {error}")
