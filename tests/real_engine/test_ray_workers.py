"""A training whose agent runs in two Ray actors, one of them killed midway: no rollout fails, each is trained once."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.engine import EngineClient
from woodshed.training.run.store import RunStore
from woodshed_tiny_world import policy_path

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("ignore")]
QUESTIONS = ["Is the Horn still in stock?", "How many of the Tuba do you have?"]


def make_agent() -> Any:
    """Return a rollout function as a notebook has one: it travels with its code."""

    async def ask(scenario: str) -> dict[str, int]:
        import os

        import openai

        import woodshed

        here = woodshed.current_rollout()
        assert here is not None
        async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
            for _ in range(2):
                await client.chat.completions.create(
                    model="any", messages=[{"role": "user", "content": scenario}], max_completion_tokens=8
                )
        return {"pid": os.getpid()}

    return ask


@dataclass(frozen=True, repr=False)
class KillsAWorker(woodshed.FunctionReward):
    """Scores by length; at the first group of the second step it kills a worker, which runs others then."""

    folder: Path = Path()

    def __repr__(self) -> str:
        return "reward"

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        marker = self.folder / "killed"
        if not marker.exists() and len(slots(self.folder)) >= 4:
            marker.write_text("")
            os.kill(trajectories[0].output["pid"], signal.SIGKILL)
        return await super().judge_group(trajectories)


def slots(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "run.sqlite")) as db:
        return dict(db.execute("SELECT slot, rollout_id FROM trajectories"))


def length(trajectory: woodshed.Trajectory) -> float:
    apart = int(trajectory.rollout_id[:8], 16) / 16**9
    return apart + sum(len(m.token_ids) for c in trajectory.calls for m in c.tokens.completions) / 16


async def test_a_worker_that_is_killed_midway_costs_no_rollout(
    engine: EngineClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
    folder = tmp_path / "r"
    try:
        run = await woodshed.train_async(
            make_agent(),
            QUESTIONS,
            policy=woodshed.Policy(str(policy_path()), max_model_len=512),
            reward=KillsAWorker(length, folder=folder),
            engine=woodshed.Engine.connect(engine.url, api_key=engine.api_key),
            evaluation=woodshed.Evaluation(scenarios=["Do you sell a Harp?"], measure=lambda t, s: length(t)),
            workers=woodshed.RayWorkers(count=2, rollouts_per_worker=2),
            run_dir=folder, checks=False, steps=3, group_size=4, scenarios_per_step=2,
        )  # fmt: skip
    finally:
        ray.shutdown()

    store, found = RunStore(folder), slots(folder)
    trajectories = [store.trajectory(slot) for slot in found]
    assert (folder / "killed").exists()
    assert run.summary.masked_rollouts == 0
    assert {t.status for t in trajectories if t is not None} == {"completed"}
    assert {len(t.calls) for t in trajectories if t is not None} == {2}
    assert len(found) == len(set(found.values())) == 3 * 8 + 2
    assert [row["trained"] for row in run.history] == [True] * 3
    pids = {t.output["pid"] for t in trajectories if t is not None}
    assert os.getpid() not in pids
    assert len(pids) >= 2
    assert len([w for w in run.summary.warnings if w.startswith("rollout worker")]) == 1
