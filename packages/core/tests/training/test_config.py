"""Settings that cannot work are refused before any work starts, by name and with the next step."""

from __future__ import annotations

import pytest

import etude
from etude.training.config import Evaluation, Policy, TrainConfig, scenario_ids
from etude.training.loop import batch_ids


def test_a_group_of_one_is_refused_with_the_reason() -> None:
    with pytest.raises(etude.ConfigError, match=r"group_size is 1; expected 2 or more.*compares"):
        TrainConfig(group_size=1)


def test_a_bad_number_names_its_field_and_what_was_found() -> None:
    with pytest.raises(etude.ConfigError, match=r"TrainConfig\.steps: .*greater than or equal to 1; found 0"):
        TrainConfig(steps=0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(etude.ConfigError, match=r"TrainConfig\.grup_size"):
        TrainConfig(grup_size=8)


def test_an_empty_scenario_list_is_refused() -> None:
    with pytest.raises(etude.ConfigError, match="scenario list is empty; expected at least one"):
        scenario_ids([])


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(etude.ConfigError, match=r"Evaluation\.scenarios is empty"):
        Evaluation(scenarios=(), measure=lambda t, s: 1.0)


def test_scenarios_with_the_same_id_are_refused() -> None:
    with pytest.raises(etude.ConfigError, match=r"\['a'\] appear more than once"):
        scenario_ids([{"id": "a"}, {"id": "a"}])


def test_scenarios_without_an_id_are_named_by_their_place() -> None:
    assert scenario_ids(["x", {"id": 7}, "y"]) == ["scenario-0", "7", "scenario-2"]


def test_a_policy_is_named_by_its_first_argument() -> None:
    assert Policy("some/model") == Policy(model="some/model")


def test_every_scenario_is_practised_once_an_epoch() -> None:
    ids = [f"s{i}" for i in range(12)]
    config = TrainConfig(scenarios_per_step=4, seed=3)

    first_epoch = [i for step in range(3) for i in batch_ids(ids, step, config)]

    assert sorted(first_epoch) == sorted(ids)
    assert first_epoch != [i for step in range(3, 6) for i in batch_ids(ids, step, config)]


def test_a_batch_never_holds_a_scenario_twice() -> None:
    ids = [f"s{i}" for i in range(5)]
    config = TrainConfig(scenarios_per_step=3)

    assert all(len(set(batch_ids(ids, step, config))) == 3 for step in range(50))


def test_a_batch_is_no_larger_than_the_scenario_list() -> None:
    assert sorted(batch_ids(["a", "b"], 0, TrainConfig(scenarios_per_step=8))) == ["a", "b"]
