"""The ground every row stands on: one engine for the class, one script for the test, hooks that end with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from woodshed.capture import RolloutFunction
from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.provision import engine_python
from woodshed.errors import EngineMissing
from woodshed.testing.conformance.adapter import Adapter, Outcome
from woodshed.testing.conformance.engine import POLICY, GatewayEngine, unscripted
from woodshed.testing.conformance.upstream import ScriptedVllm
from woodshed.testing.replies import Script
from woodshed.testing.rollouts import scripted_rollout
from woodshed.training.rollouts.rollout import run_rollout
from woodshed.types import Trajectory

ROW = re.compile(r"test_row_(\d\d)_")
WAYS = ("run", "arun", "stream")
each_way = pytest.mark.parametrize("way", WAYS)


def look(item: str) -> str:
    """Say how many of an item there are."""
    return f"7 of {item}"


class CoreRows:
    """One test method a row or part of a row, named `test_row_NN_…`; the name is the promise."""

    policy: ClassVar[Path | None] = None
    """Folder of a small model with a vocabulary of at least 257 tokens, whose LoRA the rows with a trainer train."""
    engine: ClassVar[GatewayEngine]

    @classmethod
    def setup_class(cls) -> None:
        """Start the engine."""
        try:
            engine_python()
        except EngineMissing as missing:
            pytest.skip(f"the contract runs on the real engine: {missing}")
        cls.engine = GatewayEngine(cls.policy).start()

    @classmethod
    def teardown_class(cls) -> None:
        """End it."""
        cls.engine.close()

    def setup_method(self, method: Callable[..., Any]) -> None:
        """Forget what the test before this one was answered."""
        assert ROW.match(method.__name__), f"{method.__name__} belongs to no row"
        self.engine.vllm.play(unscripted)

    def teardown_method(self) -> None:
        """Answer nothing any more."""
        self.engine.vllm.play(unscripted)

    def practise(self, script: Script, work: Callable[[], Any], *, scenario: str = "s") -> tuple[Trajectory, Any]:
        """Do some work in a rollout; return its trajectory and what the work returned."""
        self.engine.vllm.play(script)
        with scripted_rollout(self.engine, scenario_id=scenario) as rollout:
            returned = work()
        return self.engine.trajectory(rollout), returned

    def as_trained(
        self, work: Callable[[Any], Any], scenario: Any = "s", *, is_async: bool = False, timeout_s: float = 60.0
    ) -> Trajectory:
        """Return the trajectory of one rollout as the training loop runs it, failures included."""

        async def asynchronous(given: Any) -> Any:
            return await work(given)

        async def one() -> Trajectory:
            function = RolloutFunction(asynchronous if is_async else work)
            async with EngineClient(self.engine.url) as client:
                return await run_rollout(
                    function, scenario, scenario_id=str(scenario), client=client, policy=POLICY,
                    sampling=self.engine.sampling, timeout_s=timeout_s,
                )  # fmt: skip

        return asyncio.run(one())

    def needs_policy(self) -> None:
        """Skip where there is no model to train."""
        if self.policy is None:
            pytest.skip("this contract names no small model to train (`policy`)")


class Rows(CoreRows, Adapter):
    """Rows whose agents are built and run by a framework."""

    author: ClassVar[ScriptedVllm]
    """The author's own model server; inside a rollout nothing may reach it."""

    @classmethod
    def setup_class(cls) -> None:
        """Start the engine and the author's model server."""
        super().setup_class()
        cls.author = ScriptedVllm(unscripted, keeps_connections=False).start()

    @classmethod
    def teardown_class(cls) -> None:
        """End both."""
        super().teardown_class()
        cls.author.close()

    def setup_method(self, method: Callable[..., Any]) -> None:
        """Hook the framework, unless the adapter says that the row does not apply to it."""
        super().setup_method(method)
        row = ROW.match(method.__name__)
        if row is not None and (reason := self.not_applicable.get(int(row[1]))) is not None:
            self.lacks(reason)
        self.author.play(unscripted)
        self.instrumentor().instrument()

    def teardown_method(self) -> None:
        """Take the hooks back."""
        super().teardown_method()
        self.instrumentor().uninstrument()

    def go(self, way: str, agent: Any, question: str) -> Outcome:
        """Run an agent in one of three ways."""
        if way == "run":
            return self.run(agent, question)
        if way == "arun":
            return asyncio.run(self.arun(agent, question))
        return asyncio.run(self.stream(agent, question)).outcome

    def practise(self, script: Script, work: Callable[[], Any], *, scenario: str = "s") -> tuple[Trajectory, Any]:
        """Do some work in a rollout; return its trajectory and what the work returned.

        No call may have reached the author's own server meanwhile.
        """
        before = len(self.author.asked)
        practised = super().practise(script, work, scenario=scenario)
        assert self.author.asked[before:] == [], "a call inside a rollout reached the author's own model"
        return practised

    def unhooked(self, script: Script, work: Callable[[], Any]) -> Any:
        """Do the same work as the agent's author would, without any hook, on the author's own model server."""
        self.instrumentor().uninstrument()
        self.author.play(script)
        try:
            return work()
        finally:
            self.instrumentor().instrument()


def spoken(request: dict[str, Any], *roles: str) -> str:
    """Return the text of a request's messages of some roles."""
    parts = [message.get("content") or "" for message in request["messages"] if message["role"] in roles]
    return "\n".join(p if isinstance(p, str) else "".join(part.get("text", "") for part in p) for p in parts)


def system_of(request: dict[str, Any]) -> str:
    """Return a request's system prompt."""
    return spoken(request, "system", "developer")


def turn_of(request: dict[str, Any]) -> int:
    """Return how often the model has spoken in this conversation."""
    return sum(message["role"] == "assistant" for message in request["messages"])


def tool_texts(request: dict[str, Any]) -> Sequence[str]:
    """Return what the model is told by its tools, in order."""
    return [spoken({"messages": [message]}, "tool") for message in request["messages"] if message["role"] == "tool"]


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception with all that it came from."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes
