"""The demo's control."""

from __future__ import annotations

from woodshed import FunctionReward, Trajectory
from woodshed_tiny_world.demo import ShuffledReward


def _attempt(name: str) -> Trajectory:
    return Trajectory(rollout_id=name, scenario_id="q1", output=name)


async def test_control_deals_out_scores_of_a_function_that_takes_the_scenario() -> None:
    def share(trajectory: Trajectory, scenario: str) -> float:
        return len(trajectory.output) / len(scenario)

    control = ShuffledReward(FunctionReward(share), seed=1)

    bound = control.bound(base_url="", api_key="", scenarios={"q1": "abcd"})
    judgement = await bound.judge_group([_attempt("a"), _attempt("ab"), _attempt("abc")])

    assert sorted(s.value for s in judgement.scores) == [0.25, 0.5, 0.75]
