"""Stored values: frozen, strict, and the same after a JSON round trip."""

from __future__ import annotations

import pytest
from builders import TOOLS, asked, call, group, said, trajectory
from pydantic import ValidationError

from woodshed.types import Group, StepRequest, Trajectory, WeightedRollout


def test_a_group_survives_a_json_round_trip_unchanged() -> None:
    whole = group((trajectory("a", call(asked("look", '{"item":"lamp"}'), tools=TOOLS)), 1.0), (trajectory("b"), 0.0))

    assert Group.model_validate_json(whole.model_dump_json()) == whole


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        trajectory("a").rollout_id = "b"  # type: ignore[misc]


def test_an_unknown_format_version_is_refused() -> None:
    body = trajectory("a", call(said("4"))).model_dump(mode="json") | {"format": 99}

    with pytest.raises(ValidationError, match="format"):
        Trajectory.model_validate(body)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Trajectory.model_validate({"rollout_id": "a", "scenario_id": "s", "reward": 1.0})


def test_a_step_names_each_rollout_once() -> None:
    twice = WeightedRollout(rollout_id="a", advantage=1.0)

    with pytest.raises(ValidationError, match=r"\['a'\] appear more than once in step 'step-0'"):
        StepRequest(step_id="step-0", rollouts=(twice, twice))
