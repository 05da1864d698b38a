"""An engine that cannot go on ends an evaluation with its own error, and not with a group of one for each rollout."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import woodshed
from woodshed.capture import rollout
from woodshed.engine import EngineClient
from woodshed.training.evaluation import evaluate
from woodshed.training.report.progress import RunProgress
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.run.store import RunStore


async def test_many_rollouts_of_an_evaluation_fail_as_one(tmp_path: Path) -> None:
    asked = woodshed.Evaluation(scenarios=["a", "b", "c"], measure=lambda trajectory, scenario: 1.0)
    store = RunStore(tmp_path)
    async with EngineClient("http://127.0.0.1:9") as client:
        context = RunContext(
            function=rollout(lambda _: None), client=client, store=store, policy=woodshed.Policy("m"),
            policy_name="policy", config=woodshed.TrainConfig(), start_version=0, semaphore=PrioritySemaphore(4),
        )  # fmt: skip
        with RunProgress(folder=tmp_path, steps=1, console=Console(quiet=True)) as progress:
            with pytest.raises(woodshed.EngineError, match=r"127\.0\.0\.1:9"):
                await evaluate(context, asked, "before", progress)

    assert store.fact("success_before") is None
