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


class Opened(EngineClient):
    """A client that remembers what was asked of the engine."""

    async def open_policy(self, request: OpenPolicy) -> PolicyState:
        self.request = request
        return PolicyState(name=request.name, version=0)


async def test_trainer_is_asked_for_the_kernels_that_the_policy_names(tmp_path: Path) -> None:
    async with Opened("http://127.0.0.1:1", api_key="none") as client:
        store = RunStore(tmp_path / "run")
        try:
            policy = Policy("some/model", kernels="plain")
            await open_policy(client, policy, TrainConfig(), adapter=None, function=practise, store=store)
        finally:
            store.close()

    assert client.request.kernels == "plain"


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
