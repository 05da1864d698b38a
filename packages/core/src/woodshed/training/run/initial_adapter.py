"""The LoRA a run starts from, checked before any work starts."""

from __future__ import annotations

import json
from pathlib import Path

from woodshed.engine.client.fingerprint import whole_hash
from woodshed.engine.client.local import ConnectedEngine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.training.config import Policy


def initial_adapter(policy: Policy, engine: LocalEngine | ConnectedEngine) -> str | None:
    """Return the folder of the policy's initial LoRA, as the engine will open it; None for the base model.

    Raises:
        ConfigError: there is no LoRA in that folder, or its settings differ from the policy's.
    """
    if policy.adapter is None:
        return None
    path = Path(policy.adapter).expanduser()
    folder = next((f for f in (path, path / "adapter") if (f / "adapter_config.json").is_file()), None)
    if folder is not None:
        _check(folder, policy)
        return str(folder.absolute())
    if isinstance(engine, ConnectedEngine):
        return policy.adapter  # a path on the engine's machine; the engine checks it
    raise ConfigError(
        f"Policy.adapter is {policy.adapter!r}, which holds no adapter_config.json; expected the folder of a finished "
        "`woodshed sft`, or of a LoRA that PEFT wrote"
    )


def _check(folder: Path, policy: Policy) -> None:
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text())
    except ValueError as error:
        raise ConfigError(f"{str(folder / 'adapter_config.json')!r} is not JSON: {error}") from error
    wanted = {"r": policy.lora.rank, "lora_alpha": policy.lora.alpha, "target_modules": sorted(policy.lora.targets)}
    actual = {name: adapter.get(name) for name in wanted} | {
        "target_modules": sorted(adapter.get("target_modules") or ())
    }
    if actual != wanted:
        raise ConfigError(
            f"the LoRA in {str(folder)!r} was made with {actual}, and the policy asks for {wanted}; use "
            f"Policy(lora=LoraSettings(rank={actual['r']}, alpha={actual['lora_alpha']}, "
            f"targets={tuple(actual['target_modules'])}))"
        )
    base = adapter.get("base_model_name_or_path")
    if base and not _same_model(base, policy.model):
        raise ConfigError(
            f"the LoRA in {str(folder)!r} belongs to {base!r}, and the policy's model is {policy.model!r}"
        )


def _same_model(base: str, model: str) -> bool:
    """Whether the base that a LoRA names is a policy's model.

    Folders are compared by their last part, since a folder may have been moved. A GGUF file is trained as the folder
    that it was converted to, which is named by the file's hash; a file on another machine is taken for the same.
    """
    if model.endswith(".gguf") and base != model:
        file = Path(model).expanduser()
        return not file.is_file() or whole_hash(file) == Path(base).name
    return base == model or (Path(base).name == Path(model).name and (Path(base).is_absolute() or Path(model).is_dir()))
