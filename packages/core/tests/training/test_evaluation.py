"""An engine that cannot go on ends an evaluation with its own error, and not with a group of one for each rollout."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import etude
from etude.capture import rollout
from etude.engine import EngineClient
from etude.training.ahead import Slots
from etude.training.evaluation import evaluate
from etude.training.groups import Stage
from etude.training.progress import Progress
from etude.training.store import RunStore


async def test_many_rollouts_of_an_evaluation_fail_as_one(tmp_path: Path) -> None:
    asked = etude.Evaluation(scenarios=["a", "b", "c"], measure=lambda trajectory, scenario: 1.0)
    store = RunStore(tmp_path)
    async with EngineClient("http://127.0.0.1:9") as client:
        stage = Stage(
            function=rollout(lambda _: None), client=client, store=store, policy=etude.Policy("m"),
            policy_name="policy", config=etude.TrainConfig(), start_version=0, slots=Slots(4),
        )  # fmt: skip
        with Progress(folder=tmp_path, steps=1, console=Console(quiet=True)) as progress:
            with pytest.raises(etude.EngineError, match=r"127\.0\.0\.1:9"):
                await evaluate(stage, asked, "before", progress)

    assert store.fact("success_before") is None
