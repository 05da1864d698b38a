"""What a run gives away while it goes on, on the real engine: rows to the user's function, nothing printed if quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

import woodshed
from woodshed.engine import EngineClient
from woodshed_tiny_world import policy_path

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]


@woodshed.rollout
async def ask(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": question}], max_completion_tokens=8
        )


def arguments(engine: EngineClient, run_dir: Path) -> dict[str, Any]:
    return {
        "policy": woodshed.Policy(str(policy_path()), max_model_len=512),
        "reward": woodshed.FunctionReward(lambda t: int(t.rollout_id[:8], 16) / 16**8),
        "engine": woodshed.Engine.connect(engine.url, api_key=engine.api_key),
        "run_dir": run_dir, "checks": False, "group_size": 2, "scenarios_per_step": 1,
    }  # fmt: skip


async def test_what_on_step_raises_ends_the_run_after_its_step_and_a_resumed_run_goes_on_with_the_next(
    engine: EngineClient, tmp_path: Path
) -> None:
    seen: list[int] = []

    def full(row: dict[str, Any]) -> None:
        seen.append(row["step"])
        if row["step"] == 0:
            raise LookupError("the dashboard is full")

    settings = arguments(engine, tmp_path / "r") | {"on_step": full, "steps": 2}
    with pytest.raises(LookupError, match="the dashboard is full"):
        await woodshed.train_async(ask, ["Is the Horn still in stock?"], **settings)
    assert seen == [0]
    run = await woodshed.train_async(ask, ["Is the Horn still in stock?"], **settings)

    assert seen == [0, 1]
    assert [row["step"] for row in run.history] == [0, 1]


async def test_a_run_inside_a_running_loop_can_be_quiet(
    engine: EngineClient, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = []
    settings = arguments(engine, tmp_path / "r") | {"on_step": rows.append, "steps": 1, "quiet": True}
    run = woodshed.train(ask, ["Is the Horn still in stock?"], **settings)  # the loop of this test stands still
    again = woodshed.train(ask, ["Is the Horn still in stock?"], **settings)

    assert rows == list(run.history) == list(again.history)
    assert capfd.readouterr().out == ""
