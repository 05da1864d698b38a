"""`python -m woodshed.testing.conformance.killed_run …`: a short training, killed on cue.

A process of its own, since `kill -9` leaves nothing to clean up and nobody to do it.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import woodshed
from woodshed.engine.client.client import EngineClient
from woodshed.rewards.judge import Judge
from woodshed.rewards.ruler import Ruler
from woodshed.testing.conformance.engine import SCRIPTED_LOSS
from woodshed.testing.conformance.plain_agent import PlainAgent
from woodshed.testing.conformance.rows import look
from woodshed.types import Judgement, StepReport, StepRequest, Trajectory


def main() -> None:
    """Train until the end, or until the moment named by `--kill`."""
    parser = argparse.ArgumentParser(prog="python -m woodshed.testing.conformance.killed_run", description=__doc__)
    for name in ("policy", "engine", "judge", "run"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--kill", choices=("verdict", "step", "never"), required=True)
    asked = vars(parser.parse_args())
    agent = PlainAgent([look])

    @woodshed.rollout
    def answer(question: str) -> None:
        agent.run(question)

    if asked["kill"] == "step":
        EngineClient.step = _killed_step  # type: ignore[method-assign]
    kind = Killed if asked["kill"] == "verdict" else Ruler
    training = woodshed.Training(
        rollout=answer,
        scenarios=["question-1", "question-2"],
        policy=woodshed.Policy(asked["policy"]),
        reward=kind(Judge("judge", base_url=asked["judge"], api_key="none", structured="none")),
        engine=woodshed.Engine.connect(asked["engine"]),
        config=woodshed.TrainConfig(
            steps=2, group_size=2, scenarios_per_step=1, max_concurrency=1, max_staleness=0, loss=SCRIPTED_LOSS
        ),
        run_dir=Path(asked["run"]),
        checks=False,  # a scripted vLLM has no template and no parser
    )
    training.run()


class Killed(Ruler):
    """A judge that is paid, and a process that dies before the run has heard its verdict."""

    async def judge_group(self, trajectories: Sequence[Trajectory]) -> Judgement:
        """Judge, and die."""
        await super().judge_group(trajectories)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


async def _killed_step(self: EngineClient, policy: str, request: StepRequest) -> StepReport:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


if __name__ == "__main__":
    main()
