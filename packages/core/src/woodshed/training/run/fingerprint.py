"""The identity of scenarios and settings, as plain JSON that is the same in every process; checked on resume."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from woodshed.training.config import Evaluation, Policy, TrainConfig, scenario_ids


def run_identity(
    policy: Policy, config: TrainConfig, reward: object, scenarios: Sequence[Any], evaluation: Evaluation | None
) -> dict[str, Any]:
    """Return what must be unchanged to resume a run: what it learns, from what, and how that is measured."""
    return {
        "policy": policy.identity(),
        "config": config.identity(),
        "reward": stable_repr(reward),
        "scenarios": scenarios_identity(scenarios),
        "evaluation": evaluation
        and {
            **scenarios_identity(evaluation.scenarios),
            "rollouts_per_scenario": evaluation.rollouts_per_scenario,
        },
    }


def scenarios_identity(scenarios: Sequence[Any]) -> dict[str, Any]:
    """Return the scenarios' ids and a hash of their content: a changed text under an old id is a different scenario."""
    try:
        content = json.dumps(list(scenarios), sort_keys=True, default=_plain)
    except (TypeError, ValueError):  # keys that are not strings, or a scenario that contains itself
        content = stable_repr(list(scenarios))
    return {"ids": scenario_ids(scenarios), "sha256": hashlib.sha256(content.encode()).hexdigest()}


def content_identity(scenario: Any) -> str:
    """Return a text that is the same for two scenarios of the same content, whatever their ids."""
    try:
        content = json.loads(json.dumps(scenario, sort_keys=True, default=_plain))
    except (TypeError, ValueError):
        return stable_repr(scenario)
    if isinstance(content, dict):
        content.pop("id", None)
    return json.dumps(content)


def stable_repr(value: Any) -> str:
    """Return `repr(value)` without memory addresses, which change from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _plain(value: Any) -> Any:
    """Convert a value that JSON cannot represent, for `json.dumps(default=...)`."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, set | frozenset):
        return sorted(map(stable_repr, value))
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return stable_repr(value)
