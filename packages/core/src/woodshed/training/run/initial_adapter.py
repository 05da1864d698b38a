"""A LoRA that a run starts from, found and checked before any work."""

from __future__ import annotations

import json
from pathlib import Path

from woodshed.engine.client.local import ConnectedEngine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.training.config import Policy


def starting_adapter(policy: Policy, engine: LocalEngine | ConnectedEngine) -> str | None:
    """Return the folder of the LoRA the policy starts from, as the engine is to open it; None for the base model.

    Raises:
        ConfigError: there is none, or it was made with other settings than the policy's.
    """
    if policy.adapter is None:
        return None
    named = Path(policy.adapter).expanduser()
    folder = next((f for f in (named, named / "adapter") if (f / "adapter_config.json").is_file()), None)
    if folder is not None:
        _check(folder, policy)
        return str(folder.absolute())
    if isinstance(engine, ConnectedEngine):
        return policy.adapter  # a place on the engine's machine, which looks for itself
    raise ConfigError(
        f"Policy.adapter is {policy.adapter!r}, which holds no adapter_config.json; expected the folder of a finished "
        "`woodshed sft`, or of a LoRA that PEFT wrote"
    )


def _check(folder: Path, policy: Policy) -> None:
    try:
        made = json.loads((folder / "adapter_config.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{str(folder / 'adapter_config.json')!r} is not JSON: {error}") from error
    asked = {"r": policy.lora.rank, "lora_alpha": policy.lora.alpha, "target_modules": sorted(policy.lora.targets)}
    found = {name: made.get(name) for name in asked} | {"target_modules": sorted(made.get("target_modules") or ())}
    if found != asked:
        raise ConfigError(
            f"the LoRA in {str(folder)!r} was made with {found}, and the policy asks for {asked}; use "
            f"Policy(lora=LoraSettings(rank={found['r']}, alpha={found['lora_alpha']}, "
            f"targets={tuple(found['target_modules'])}))"
        )
    base = made.get("base_model_name_or_path")
    if base and not _same_model(base, policy.model):
        raise ConfigError(
            f"the LoRA in {str(folder)!r} belongs to {base!r}, and the policy's model is {policy.model!r}"
        )


def _same_model(one: str, other: str) -> bool:
    """Whether two names mean one model; folders are told by their last part, because a folder may have been moved."""
    return one == other or (Path(one).name == Path(other).name and (Path(one).is_absolute() or Path(other).is_dir()))
