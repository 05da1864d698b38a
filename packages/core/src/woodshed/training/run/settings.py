"""A run's settings, as its folder holds them: what changed since, field by field, and what may change on resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError

_SHOWN = 60
_ABOUT = ("limits", "rollout", "woodshed")
"""Keys of config.json that describe a run, and need not be equal to resume it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that is not what it was."""

    field: str
    """Dotted path, such as `config.optimizer.learning_rate`."""
    old: str
    new: str

    def __str__(self) -> str:
        """Show the field with both values."""
        return f"{self.field}: {self.old} → {self.new}"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a run's `config.json`.

    Raises:
        ConfigError: the file is torn, or holds something else.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{str(path)!r} cannot be read as a run's settings: {error}. Restore a copy, or move the file away if you "
            "are sure that the run had today's settings"
        ) from error


def changes(stored: Mapping[str, Any], wanted: Mapping[str, Any], limits: Mapping[str, Any]) -> list[Change]:
    """Return the settings that differ, by dotted path; those of `limits` may."""
    free = set(_paths(limits))
    kept = flat({k: v for k, v in stored.items() if k not in _ABOUT})
    asked = flat(json.loads(json.dumps(wanted)))
    return [
        Change(path, _shown(kept, path), _shown(asked, path))
        for path in dict.fromkeys([*asked, *kept])
        if path not in free and (path not in kept or path not in asked or kept[path] != asked[path])
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted path; lists are values."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def refusal(folder: Path, found: list[Change], limits: Mapping[str, Any], *, finished: bool) -> str:
    """Return the message of a run that is asked for with other settings than it has."""
    lines = "".join(f"\n  {change}" for change in found)
    free = ", ".join(_paths(limits))
    may = f"These may change when a run is resumed: {free}; all others must stay. " if free else ""
    use = "Put the old values back" + ("" if finished else " to resume it")
    return (
        f"{str(folder)!r} holds {'a finished' if finished else 'an unfinished'} run with other settings:{lines}\n{may}"
        f"{use}, choose another folder (run_dir=, `--run-dir`), or start anew with fresh=True (`--fresh`), which "
        "renames this folder and keeps what is in it"
    )


def _paths(limits: Mapping[str, Any]) -> list[str]:
    return list(flat(limits, "config."))


def _shown(settings: Mapping[str, Any], path: str) -> str:
    if path not in settings:
        return "(not set)"
    text = json.dumps(settings[path], ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
