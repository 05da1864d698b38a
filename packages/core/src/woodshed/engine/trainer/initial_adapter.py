"""A run that starts from a LoRA trained before, instead of from the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.errors import TrainError
from woodshed.types import LoraSettings


def start_from(policy: LoraPolicy, folder: Path) -> None:
    """Take over the adapter in a folder; the optimizer starts anew.

    Raises TrainError where there is none, or where it was made with other settings: its scale, `alpha / rank`, is not
    in its tensors.
    """
    try:
        made = json.loads((folder / "adapter_config.json").read_text())
        adapter = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise TrainError(
            f"there is no LoRA to start from in {str(folder)!r} ({error}); expected PEFT's adapter_config.json and "
            "adapter_model.safetensors there, on the engine's machine"
        ) from error
    _check_settings(made, policy.settings.lora, folder)
    policy.take_adapter(adapter, folder)


def _check_settings(made: dict[str, Any], asked: LoraSettings, folder: Path) -> None:
    found = (made.get("r"), made.get("lora_alpha"), sorted(made.get("target_modules") or ()))
    if found != (asked.rank, asked.alpha, sorted(asked.targets)):
        raise TrainError(
            f"the LoRA in {str(folder)!r} was made with rank {found[0]}, alpha {found[1]} and targets {found[2]}; the "
            f"policy asks for rank {asked.rank}, alpha {asked.alpha:g} and targets {sorted(asked.targets)}"
        )
