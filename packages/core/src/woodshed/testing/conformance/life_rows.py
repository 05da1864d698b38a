"""Rows about life: many rollouts at once, threads, time limits, and that nobody notices the hooks."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import asyncio
import importlib
import json
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import BaseModel

from woodshed.capture import current_rollout, take_late_calls
from woodshed.errors import LeakError
from woodshed.testing.conformance.adapter import Outcome
from woodshed.testing.conformance.rows import Rows, chain, each_way, look, spoken, system_of, tool_texts, turn_of
from woodshed.testing.conformance.structure_rows import Town, broken
from woodshed.testing.conformance.token_rows import team_script
from woodshed.testing.conformance.truth import assert_faithful
from woodshed.testing.replies import Reply, Script, call_tool, fail, hang, in_order, say
from woodshed.testing.rollouts import scripted_rollout
from woodshed.training.step_request import step_request
from woodshed.types import Group, Judgement, Score, Trajectory

MANY = 32
_IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|chatcmpl-tool-[0-9a-f]{16}")


class LifeRows(Rows):
    """Rows 11, 12, 16, 21 and 22."""

    def test_row_11_32_concurrent_rollouts_of_one_agent_do_not_mix(self) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])
        self.engine.vllm.play(_by_content)

        async def one(number: int) -> tuple[Trajectory, Outcome]:
            question = f"How many of thing-{number}- are there?"
            with scripted_rollout(self.engine, scenario_id=str(number)) as rollout:
                inside = self.arun(agent, question) if number % 2 else asyncio.to_thread(self.run, agent, question)
                outcome = await inside
            return self.engine.trajectory(rollout), outcome

        async def everything() -> list[tuple[Trajectory, Outcome]]:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MANY))
            return await asyncio.gather(*(one(number) for number in range(MANY)))

        for number, (trajectory, outcome) in enumerate(asyncio.run(everything())):
            said = trajectory.model_dump_json(exclude={"rollout_id", "scenario_id"}) + outcome.text
            assert set(re.findall(r"thing-(\d+)-", said)) == {str(number)}
            assert [tool.arguments for tool in trajectory.tool_calls] == [{"item": f"thing-{number}-"}]
            assert [call.note is not None for call in trajectory.calls] == [True, True]
            assert_faithful(trajectory, self.engine.requests)
        assert len(self.engine.requests) == 2 * MANY
        assert self.author.asked == []

    def test_row_12_a_sync_agent_in_a_thread_pool_belongs_to_its_rollout(self) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])

        def pooled() -> list[Outcome]:
            with ThreadPoolExecutor(2) as pool:
                jobs = [pool.submit(self.run, agent, f"How many of thing-{n}- are there?") for n in range(4)]
                return [job.result() for job in jobs]

        trajectory, outcomes = self.practise(_by_content, pooled)

        assert len(trajectory.calls) == 8
        assert all(f"7 of thing-{n}-" in outcome.text for n, outcome in enumerate(outcomes))
        assert all(call.note is not None for call in trajectory.calls)
        assert len(assert_faithful(trajectory, self.engine.requests)) == 4

    def test_row_12_an_agent_in_a_thread_that_a_tool_starts_belongs_to_the_rollout(self) -> None:
        helper = self.assistant(self.author.base_url, name="helper", instruction="You are helper.")

        def consult(question: str) -> str:
            """Ask the helper."""
            answers: list[Outcome] = []
            thread = threading.Thread(target=lambda: answers.append(self.run(helper, question)))
            thread.start()
            thread.join(30)
            return answers[0].text

        agent = self.assistant(self.author.base_url, tools=[consult], name="boss", instruction="You are boss.")

        def script(request: dict[str, Any]) -> Reply:
            if "You are helper." in system_of(request):
                return say("the helper says 7")
            asked = call_tool("consult", id="call_helper", question="How many?")
            return say(f"told: {tool_texts(request)[-1]}") if turn_of(request) else asked

        trajectory, outcome = self.practise(script, lambda: self.run(agent, "How many lamps?"))

        notes = [call.note for call in trajectory.calls if call.note is not None]
        assert "the helper says 7" in outcome.text
        assert ["You are helper." in system_of(served.body) for served in self.engine.requests] == [False, True, False]
        assert notes[1].parent_call_id == notes[0].call_id
        assert len(assert_faithful(trajectory, self.engine.requests)) == 2

    def test_row_12_a_thread_that_lost_its_rollout_fails_closed(self) -> None:
        agent = self.assistant(self.author.base_url)
        bound, errors, outcomes = threading.Event(), [], []

        def stray() -> None:
            bound.wait(30)
            assert current_rollout() is None
            try:
                outcomes.append(self.run(agent, "Hello?"))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=stray)
        thread.start()
        self.author.play(lambda request: say("leaked"))
        self.engine.vllm.play(lambda request: say("mixed"))
        with scripted_rollout(self.engine):
            bound.set()
            thread.join(60)

        assert (self.author.asked, self.engine.vllm.asked, outcomes) == ([], [], [])
        assert any(isinstance(cause, LeakError) for cause in chain(errors[0])), errors

    def test_row_16_a_call_that_hangs_is_cut_at_the_time_limit_and_never_trained(self) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])
        self.engine.vllm.play(lambda request: hang() if turn_of(request) else call_tool("look", item="lamps"))

        trajectory = self.as_trained(lambda _: self.arun(agent, "How many lamps?"), is_async=True, timeout_s=8.0)

        assert trajectory.status == "timed_out"
        assert trajectory.error is not None
        assert trajectory.error.kind == "RolloutTimeout"
        answered, cut = (call.tokens for call in trajectory.calls[:2])
        assert (answered.error, cut.completions) == (None, ())
        assert cut.error is not None
        given = Judgement(scores=(Score(rollout_id=trajectory.rollout_id, value=0.9), Score(rollout_id="o", value=0.1)))
        group = Group(group_id="g", scenario_id="s", trajectories=(trajectory,), judgement=given)
        assert step_request("s", [group], 1e-3).rollouts == ()

    def test_row_16_a_call_after_the_seal_is_refused_and_not_in_the_trace(self) -> None:
        go_on, ended = threading.Event(), threading.Event()

        def wait(item: str) -> str:
            """Wait until it is too late."""
            go_on.wait(60)
            return f"7 of {item}"

        agent = self.assistant(self.author.base_url, tools=[wait])
        self.engine.vllm.play(in_order(call_tool("wait", item="lamps"), say("too late")))
        errors: list[BaseException] = []

        def work(_: Any) -> None:
            try:
                self.run(agent, "How many lamps?")
            except BaseException as error:
                errors.append(error)
                raise
            finally:
                ended.set()

        threading.Timer(4.0, go_on.set).start()
        trajectory = self.as_trained(work, timeout_s=2.0)

        assert ended.wait(60)
        assert trajectory.status == "timed_out"
        assert len(trajectory.calls) == 1
        # It is stopped here, before it reaches the gateway, which would answer it with 409.
        sealed = self.engine.seal(trajectory.rollout_id)
        assert [call.call_id for call in sealed.calls] == [call.tokens.call_id for call in trajectory.calls]
        assert len(self.engine.vllm.asked) == 1
        assert any(isinstance(cause, LeakError) or "which has ended" in str(cause) for cause in chain(errors[0]))
        assert any("which has ended" in message for message in take_late_calls())

    @each_way
    @pytest.mark.parametrize("what", ["plain", "tools", "broken tool", "typed", "team", "handoff", "refused"])
    def test_row_21_results_events_state_and_exceptions_are_those_of_the_unhooked_agent(
        self, way: str, what: str
    ) -> None:
        agent, script = self._subject(what)

        def work() -> tuple[Outcome | None, Any]:
            try:
                return self.go(way, agent, "How many of thing-1- are there?"), None
            except Exception as error:
                return None, (type(error), str(error))

        alone = self.unhooked(script, work)
        asked_alone = self.author.asked
        self.author.play(script)
        hooked = work()
        asked_hooked, headers = self.author.asked, self.author.headers
        trajectory, practised = self.practise(script, work)

        assert practised == alone
        assert hooked == alone
        # Outside a rollout the author's server is asked the same, in any order, and sees no trace of woodshed.
        assert in_any_order(asked_hooked) == in_any_order(asked_alone)
        assert {sent["authorization"] for sent in headers} == {"Bearer author"}
        assert not [name for sent in headers for name in sent if name.startswith("x-woodshed")]
        assert len(trajectory.calls) == len(asked_alone)
        assert all(call.note is not None for call in trajectory.calls)
        used = [bool(call.tokens.completions) and not call.superseded for call in trajectory.calls]
        assert all(used) is (what != "refused")
        assert (alone[1] is not None) is (what == "refused")

    def test_row_22_uninstrument_restores_by_identity_and_double_instrument_wraps_once(self) -> None:
        switch = self.instrumentor()
        switch.uninstrument()
        before = self._held()
        switch.instrument()
        wrapped = self._held()
        self.instrumentor().instrument()
        again = self._held()
        self.instrumentor().uninstrument()

        assert before
        assert all(wrapped[target] is not held for target, held in before.items())
        assert all(again[target] is held for target, held in wrapped.items())
        assert all(held is before[target] for target, held in self._held().items())
        assert not switch.instrumented

    def _subject(self, what: str) -> tuple[Any, Script]:
        url = self.author.base_url
        typed: type[BaseModel] = Town
        if what == "typed":
            return self.assistant(url, answer=typed), lambda request: say('{"name": "Oslo", "people": 7}')
        if what == "team":
            return self.team(url, tools=[look]), team_script(self)
        if what == "handoff":
            clerk = "You are clerk."
            return self.handoff(url), lambda r: say("Here.") if clerk in system_of(r) else self.transfer()
        if what == "refused":
            return self.assistant(url), lambda request: fail(400)
        if what == "broken tool":
            broke = call_tool("broken", id="call_1", item="thing-1-")
            return self.assistant(url, tools=[broken]), lambda r: say("I cannot tell.") if turn_of(r) else broke
        return self.assistant(url, tools=[look] if what == "tools" else []), _by_content

    def _held(self) -> dict[str, Any]:
        """Return what each hooked owner itself holds now, by target; optional ones only where they exist."""
        held = {}
        for hook in self.hooks():
            owner: Any = importlib.import_module(hook.module)
            *parents, name = hook.path.split(".")
            for parent in parents:
                owner = getattr(owner, parent, None)
            if owner is not None and (hasattr(owner, name) or not hook.optional):
                held[f"{hook.module}.{hook.path}"] = vars(owner).get(name)
        return held


def in_any_order(bodies: Sequence[dict[str, Any]]) -> list[str]:
    """Return requests as sorted text, without the ids that differ between any two runs."""
    return sorted(_IDS.sub("ID", json.dumps(body, sort_keys=True)) for body in bodies)


def _by_content(request: dict[str, Any]) -> Reply:
    """Look up what the user asks about where there is a tool; then pass its answer on."""
    thing = re.findall(r"thing-\d+-", spoken(request, "user"))[-1]
    if request.get("tools") and not turn_of(request):
        return call_tool("look", id=f"call_{thing}", item=thing)
    return say(f"There are {tool_texts(request)[-1]}." if turn_of(request) else f"Seven of {thing}.")
