"""What the trainer warns of when a policy is opened is kept with the run and handed on to be shown."""

from __future__ import annotations

from pathlib import Path

from woodshed.engine.client.client import EngineClient
from woodshed.training.config import Policy, TrainConfig
from woodshed.training.open_policy import open_policy
from woodshed.training.run.store import RunStore
from woodshed.types import OpenPolicy, PolicyState

SLOW = ("the forward mode is 'rows', not the fastest one ('tree' cannot be used: no kernel)",)


class SlowTrainer(EngineClient):
    """A client whose engine left the fastest forward mode."""

    async def open_policy(self, request: OpenPolicy) -> PolicyState:
        return PolicyState(name=request.name, version=0, forward_mode="rows", warnings=SLOW)


async def practise() -> None:
    """Do nothing."""


async def test_a_run_keeps_why_its_trainer_is_slow(tmp_path: Path) -> None:
    async with SlowTrainer("http://127.0.0.1:1", api_key="none") as client:
        store = RunStore(tmp_path / "run")
        try:
            for _ in range(2):  # a run that is resumed keeps it once
                context = await open_policy(
                    client, Policy("some/model"), TrainConfig(), adapter=None, function=practise, store=store
                )
            kept = store.fact("warnings")
        finally:
            store.close()

    assert context.trainer_warnings == SLOW
    assert kept == list(SLOW)
