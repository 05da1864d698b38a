"""Settings that cannot work are refused before any work starts, by name and with the next step."""

from __future__ import annotations

from typing import Any

import pytest

import woodshed
from woodshed.training.config import AdvantageSettings, Evaluation, Policy, TrainConfig, scenario_ids
from woodshed.training.rollouts.sampling import step_scenarios


def test_a_group_of_one_is_refused_with_the_reason() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"group_size is 1; expected 2 or more.*compares"):
        TrainConfig(group_size=1)


def test_a_bad_number_names_its_field_and_what_was_found() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"TrainConfig\.steps: .*greater than or equal to 1; found 0"):
        TrainConfig(steps=0)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"TrainConfig\.grup_size"):
        TrainConfig(grup_size=8)


def test_an_empty_scenario_list_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match="scenario list is empty; expected at least one"):
        scenario_ids([])


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"Evaluation\.scenarios is empty"):
        Evaluation(scenarios=(), measure=lambda t, s: 1.0)


def test_scenarios_with_the_same_id_are_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"\['a'\] appear more than once"):
        scenario_ids([{"id": "a"}, {"id": "a"}])


def test_scenarios_without_an_id_are_named_by_their_place() -> None:
    assert scenario_ids(["x", {"id": 7}, "y"]) == ["scenario-0", "7", "scenario-2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": "batch", "per": "agent"}, r"scale is 'batch' and per is 'agent'.*Use scale='std'"),
        ({"overlong_longest": 100}, r"overlong_longest is 100 and overlong_soft is None; the penalty needs both"),
        ({"overlong_longest": 100, "overlong_soft": 200}, r"soft is 200; expected 1 to longest \(100\)"),
        ({"scale": "variance"}, r"AdvantageSettings\.scale: .*found 'variance'"),
    ],
)
def test_advantage_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=said):
        AdvantageSettings(**settings)


@pytest.mark.parametrize(
    ("policy", "config", "said"),
    [
        (
            {"max_tokens": 50},
            {"advantage": AdvantageSettings(overlong_longest=100, overlong_soft=50)},
            r"overlong_longest=100 with overlong_soft=50 never applies: Policy.max_tokens=50",
        ),
        (
            {},
            {"extra_scenarios": 2, "scenarios_per_step": 3},
            r"extra_scenarios is 2, but each step already takes all 3 scenarios",
        ),
    ],
)
def test_settings_that_can_never_apply_are_refused(policy: Any, config: Any, said: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=said):
        woodshed.Training(
            rollout=lambda _: None, scenarios=["a", "b", "c"], policy=Policy("m", **policy),
            config=TrainConfig(**config), reward=woodshed.FunctionReward(lambda _: 1.0),
        )  # fmt: skip


def test_a_training_with_other_numbers_keeps_its_nested_settings() -> None:
    config = TrainConfig(advantage=AdvantageSettings(scale="std"), loss=woodshed.LossSettings(preset="dapo"))
    training = woodshed.Training(
        rollout=lambda _: None, scenarios=["a"], policy=Policy("m"), config=config,
        reward=woodshed.FunctionReward(lambda _: 1.0),
    )  # fmt: skip

    changed = training.with_overrides(run_dir=None, fresh=False, steps=3, seed=None).config

    assert changed == config.model_copy(update={"steps": 3})


def test_what_defines_a_run_and_what_only_bounds_it_are_apart() -> None:
    bounds = {
        "steps": 7, "max_concurrency": 4, "rollout_timeout_s": 7, "max_staleness": 0, "stop_after_flat_steps": 9,
        "keep_checkpoints": 5,
    }  # fmt: skip
    config = TrainConfig(**bounds, loss=woodshed.LossSettings(drift_warn=0.1, drift_stop=0.2))

    assert config.identity() == TrainConfig().identity()
    assert config.limits() == {**bounds, "loss": {"drift_warn": 0.1, "drift_stop": 0.2}}
    assert TrainConfig(loss=woodshed.LossSettings(kl_coef=0.1)).identity() != TrainConfig().identity()


def test_a_policy_is_named_by_its_first_argument() -> None:
    assert Policy("some/model") == Policy(model="some/model")


def test_every_scenario_is_practised_once_an_epoch() -> None:
    ids = [f"s{i}" for i in range(12)]
    config = TrainConfig(scenarios_per_step=4, seed=3)

    first_epoch = [i for step in range(3) for i in step_scenarios(ids, step, config)]

    assert sorted(first_epoch) == sorted(ids)
    assert first_epoch != [i for step in range(3, 6) for i in step_scenarios(ids, step, config)]


def test_a_batch_never_holds_a_scenario_twice() -> None:
    ids = [f"s{i}" for i in range(5)]
    config = TrainConfig(scenarios_per_step=3)

    assert all(len(set(step_scenarios(ids, step, config))) == 3 for step in range(50))


def test_a_batch_is_no_larger_than_the_scenario_list() -> None:
    assert sorted(step_scenarios(["a", "b"], 0, TrainConfig(scenarios_per_step=8))) == ["a", "b"]


def test_an_evaluation_of_no_rollouts_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match="rollouts_per_scenario is 0; expected at least 1"):
        woodshed.Evaluation(scenarios=["q"], measure=lambda trajectory, scenario: 1.0, rollouts_per_scenario=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, r"Evaluation\.every is 0; expected at least 1"),
        ({"every": 1.5}, r"Evaluation\.every is 1\.5; expected a whole number, at least 1"),
        ({"every": True}, r"Evaluation\.every is True; expected a whole number"),
        ({"every": 2, "patience": 0}, r"Evaluation\.patience is 0; expected at least 1"),
        ({"patience": 3}, r"Evaluation\.patience is 3 and every is None; expected every=N as well"),
    ],
)
def test_an_evaluation_that_would_never_happen_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=message):
        woodshed.Evaluation(scenarios=["q"], measure=lambda trajectory, scenario: 1.0, **settings)


def test_a_run_that_would_keep_no_checkpoint_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"TrainConfig\.keep_checkpoints: .*equal to 1; found 0"):
        TrainConfig(keep_checkpoints=0)
