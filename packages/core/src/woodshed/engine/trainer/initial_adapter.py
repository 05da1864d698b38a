"""Starts a run from an existing LoRA instead of from the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.errors import TrainError
from woodshed.types import LoraSettings


def start_from(policy: LoraPolicy, folder: Path) -> None:
    """Load the adapter in a folder into the policy; the optimizer starts from zero.

    Raises:
        TrainError: There is no adapter, or it was made with other settings. Its scale, `alpha / rank`, is not in its
            tensors, so the settings must be the same.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        adapter = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise TrainError(
            f"there is no LoRA to start from in {str(folder)!r} ({error}); expected PEFT's adapter_config.json and "
            "adapter_model.safetensors there, on the engine's machine"
        ) from error
    _check_settings(config, policy.settings.lora, folder)
    policy.take_adapter(adapter, folder)


def _check_settings(config: dict[str, Any], lora: LoraSettings, folder: Path) -> None:
    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), sorted(config.get("target_modules") or ())
    if (rank, alpha, targets) != (lora.rank, lora.alpha, sorted(lora.targets)):
        raise TrainError(
            f"the LoRA in {str(folder)!r} was made with rank {rank}, alpha {alpha} and targets {targets}; the "
            f"policy asks for rank {lora.rank}, alpha {lora.alpha:g} and targets {sorted(lora.targets)}"
        )
