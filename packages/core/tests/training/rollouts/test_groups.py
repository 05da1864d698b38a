"""Groups whose scores are all equal are made up for by further scenarios, within a bound. Real store, no engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import call, said, trajectory
from rich.console import Console

import woodshed
from woodshed.capture import rollout
from woodshed.engine import EngineClient
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.groups import RunContext, StepGroups, sample_groups
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.rollouts.sampling import spare_scenarios, step_scenarios
from woodshed.training.run.store import RunStore
from woodshed.types import Judgement, Score

SCENARIOS = {f"s{n}": f"question {n}" for n in range(6)}
NO_REWARD = woodshed.FunctionReward(lambda _: None)


async def _batch(folder: Path, flat: set[str], config: woodshed.TrainConfig) -> StepGroups:
    """Return the first step's batch of a run that has rolled out and judged every scenario already."""
    store = RunStore(folder)
    for name in SCENARIOS:
        values = {f"{name}-0": 0.5 if name in flat else 1.0, f"{name}-1": 0.5}
        for number, rollout_id in enumerate(values):
            store.save_trajectory(f"0/{name}/{number}", trajectory(rollout_id, call(said(rollout_id))))
        scores = tuple(Score(rollout_id=i, value=v) for i, v in values.items())
        store.save_judgement(f"0/{name}", Judgement(scores=scores))
    context = RunContext(
        function=rollout(lambda _: None), client=EngineClient("http://127.0.0.1:9"), store=store,
        policy=woodshed.Policy("m"), policy_name="policy", config=config, start_version=0,
        semaphore=PrioritySemaphore(4),
    )  # fmt: skip
    with RunProgress(folder=folder, steps=1, console=Console(quiet=True)) as progress:
        return await sample_groups(context, 0, SCENARIOS, NO_REWARD, progress)


@pytest.mark.parametrize("extra", [0, 1, 4])
async def test_flat_groups_are_made_up_for_as_far_as_the_bound_goes(tmp_path: Path, extra: int) -> None:
    config = woodshed.TrainConfig(group_size=2, scenarios_per_step=2, extra_scenarios=extra)
    own, spare = step_scenarios(list(SCENARIOS), 0, config), spare_scenarios(list(SCENARIOS), 0, config)
    flat = {own[0], *spare[:1]}

    batch = await _batch(tmp_path, flat, config)

    # One flat group of its own asks for one scenario, which is flat, too, and asks for one more.
    drawn = spare[: min(extra, 2)]
    assert [g.scenario_id for g in batch.groups] == [*own, *drawn]
    assert (batch.extra, batch.flat) == (len(drawn), len(flat & {*own, *drawn}))


async def test_nothing_is_drawn_where_every_group_teaches(tmp_path: Path) -> None:
    config = woodshed.TrainConfig(group_size=2, scenarios_per_step=2, extra_scenarios=4)

    batch = await _batch(tmp_path, set(), config)

    assert (len(batch.groups), batch.extra, batch.flat) == (2, 0, 0)


def test_further_scenarios_are_others_than_the_steps_own_and_the_same_when_asked_again() -> None:
    config = woodshed.TrainConfig(scenarios_per_step=3, extra_scenarios=9)
    ids = list(SCENARIOS)

    for step in range(10):
        further = spare_scenarios(ids, step, config)
        assert sorted([*further, *step_scenarios(ids, step, config)]) == sorted(ids)
        assert further == spare_scenarios(ids, step, config)
