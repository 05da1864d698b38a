"""What an export reads of a run: which weights, of which base model, and how they came to be. Nothing is changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.engine.client.adapter_files import is_adapter
from woodshed.errors import ConfigError
from woodshed.training.config import Policy
from woodshed.training.finished import versions_to_keep
from woodshed.training.report.evaluations import EvaluationFigures, evaluations
from woodshed.training.run.adapters import adapter_on_this_machine
from woodshed.training.run.folder import refuse_running
from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.settings import read_settings
from woodshed.training.run.store import RunStore

_TEXTS, _TOKENS = 3, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run, or an SFT, and the version of it that is exported."""

    folder: Path
    run_id: str
    policy: Policy
    settings: dict[str, Any]
    """`config.json` of the run."""
    figures: dict[str, Any]
    """`summary.json`; empty for a run that has not come to its end."""
    history: tuple[dict[str, Any], ...]
    evaluations: tuple[EvaluationFigures, ...]
    version: int
    step: int
    """Optimizer steps that led to that version."""
    adapter: Path | None
    """Folder of its LoRA on this machine; None if only the engine has it."""
    checkpoints: str | None
    """Where the engine keeps the checkpoints, on its machine."""
    texts: tuple[tuple[int, ...], ...]
    """Token ids of a few rollouts, to compare with what is written."""

    @property
    def is_sft(self) -> bool:
        """Whether it was fine-tuned on finished conversations."""
        return "sft" in self.settings


def read_run(folder: Path, *, best: bool = False) -> TrainedRun:
    """Return the run in `folder` with its last version, or with its `best` one.

    Raises:
        ConfigError: There is no run, it was written by a newer woodshed, is damaged, is being trained, or has trained
            nothing; or `best` is asked for and nothing was evaluated.
    """
    if not (folder / "run.sqlite").is_file() or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{str(folder)!r} holds no run of woodshed: expected the folder of a `woodshed train` or `woodshed sft`, "
            "with config.json and run.sqlite"
        )
    refuse_running(folder)
    settings = read_settings(folder / "config.json")
    if "policy" not in settings:
        raise ConfigError(f"{str(folder / 'config.json')!r} names no policy; it is not that of a run")
    with ReadStore(folder) as store:
        history = tuple(store.history())
        run_id, points = store.fact("run_id"), evaluations(store, history) if "sft" not in settings else ()
        version = _version(store, folder, history, best=best, is_sft="sft" in settings)
        return TrainedRun(
            folder=folder,
            run_id=str(run_id),
            policy=Policy(**settings["policy"]),
            settings=settings,
            figures=_figures(folder),
            history=history,
            evaluations=points,
            version=version,
            step=next((k + 1 for k, row in enumerate(history) if row["version"] == version), 0),
            adapter=_adapter(folder, str(run_id), version, store.fact("checkpoints"), is_sft="sft" in settings),
            checkpoints=store.fact("checkpoints"),
            texts=_texts(store),
        )


def _version(store: RunStore, folder: Path, history: tuple[dict[str, Any], ...], *, best: bool, is_sft: bool) -> int:
    last, top = (history[-1]["version"] if history else None, None) if is_sft else versions_to_keep(store, history)
    if last is None:
        raise ConfigError(
            f"the run in {str(folder)!r} has trained nothing: {len(history)} steps were taken, and none changed the "
            "weights. There is nothing to export but the base model"
        )
    if best and top is None:
        raise ConfigError(
            f"the run in {str(folder)!r} has no evaluation, so no version is known to be the best; leave best out "
            "(`--best`) to export the last one, or train with evaluation=woodshed.Evaluation(...)"
        )
    return int(top if best and top is not None else last)


def _adapter(folder: Path, run_id: str, version: int, checkpoints: str | None, *, is_sft: bool) -> Path | None:
    found = adapter_on_this_machine(folder, run_id, version, checkpoints)
    if is_sft and is_adapter(folder / "adapter"):
        found = folder / "adapter"
    if found is not None and (why := _damage(found)) is not None:
        raise ConfigError(
            f"the LoRA in {str(found)!r} is damaged: {why}. Restore a copy, export another version, or train further "
            "from an older checkpoint"
        )
    return found


def _damage(adapter: Path) -> str | None:
    """Return why a LoRA cannot be used; None where its bytes are those that its checkpoint names, if it names any."""
    try:
        json.loads((adapter / "adapter_config.json").read_text())
        content = (adapter / "adapter_model.safetensors").read_bytes()
        head = int.from_bytes(content[:8], "little")
        tensors = json.loads(content[8 : 8 + head])
        end = max((t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"), default=0)
        if len(content) != 8 + head + end:
            return f"adapter_model.safetensors has {len(content)} bytes, expected {8 + head + end}"
        position = adapter.parent / "position.json"
        named = json.loads(position.read_text()).get("hashes", {}) if position.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return " ".join(str(error).split())[:200]
    digest = named.get("adapter/adapter_model.safetensors")
    if digest is not None and digest != hashlib.sha256(content).hexdigest():
        return "adapter_model.safetensors does not hold the bytes that were written"
    return None


def _figures(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "summary.json").read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{str(folder / 'summary.json')!r} cannot be read: {error}. Restore a copy, or move it away to export "
            "without its figures"
        ) from error


def _texts(store: RunStore) -> tuple[tuple[int, ...], ...]:
    found = [
        (*call.tokens.prompt_ids, *call.tokens.completions[0].token_ids)[-_TOKENS:]
        for trajectory in store.newest_trajectories(4 * _TEXTS)
        for call in trajectory.calls[-1:]
        if call.tokens.completions
    ]
    return tuple([text for text in found if len(text) > 1][:_TEXTS])
