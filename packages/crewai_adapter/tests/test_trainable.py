"""The door: what `trainable` accepts, what it refuses, and that hooks come and go exactly."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest
from author_crews import QUESTION, CountingFlow, agent, llm, one_agent, task
from crewai import Agent, Crew, Process, Task
from crewai.events import crewai_event_bus
from crewai.llms.base_llm import BaseLLM
from crewai.project import CrewBase, crew
from crewai.project import agent as crew_agent
from crewai.project import task as crew_task

from woodshed.capture import Hook, HookSet, VersionRange
from woodshed.errors import ConfigError, HookError, UnsupportedVersionError
from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed_crewai import CrewAIInstrumentor, instrument, trainable
from woodshed_crewai.instrumentor import HOOKS


def hooked() -> dict[str, Any]:
    """Return what every hooked owner itself holds now, by target; optional ones only where they exist."""
    held_at = {}
    for hook in HOOKS:
        try:
            owner: Any = importlib.import_module(hook.module)
        except ImportError:
            continue
        *parents, name = hook.path.split(".")
        for parent in parents:
            owner = getattr(owner, parent, None)
        held = vars(owner).get(name) if owner is not None else None
        if held is not None or not hook.optional:
            held_at[f"{hook.module}.{hook.path}"] = held
    return held_at


class Own(BaseLLM):
    """A model that its author wrote."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        return "the author's own answer"

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> str:
        return "the author's own answer"


def test_everything_that_holds_a_crew_is_returned_as_it_is(engine: ScriptedEngine) -> None:
    built = one_agent(engine.base_url)

    def build() -> Crew:
        return built

    assert trainable(built) is built
    assert trainable(build) is build
    assert trainable(CountingFlow) is CountingFlow


def test_a_crew_base_class_is_recorded(engine: ScriptedEngine) -> None:
    url = engine.base_url

    class Support:
        agents: list[Any]
        tasks: list[Any]

        @crew_agent
        def counter(self) -> Agent:
            return agent(llm(url), "Counter\n")

        @crew_task
        def count(self) -> Task:
            return task(self.counter(), name=None)

        @crew
        def crew(self) -> Crew:
            return Crew(agents=self.agents, tasks=self.tasks, process=Process.sequential)

    based = CrewBase(Support)  # type: ignore[arg-type]
    assert trainable(based) is based
    with scripted_rollout(engine) as rollout:
        based().crew().kickoff(inputs=QUESTION)

    (note,) = rollout.recorder.notes()
    assert (note.agent, note.task) == ("Counter", "count")


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (42, r"got a builtins\.int\..*instrument\(\)"),
        (dict, r"got the class builtins\.dict; put @trainable above @CrewBase"),
    ],
)
def test_what_holds_no_crew_is_refused(target: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=r"expects a @CrewBase class, a Crew, a Flow class or a function.*" + named):
        trainable(target)
    assert not CrewAIInstrumentor().instrumented


def test_uninstrument_restores_by_identity_and_double_instrument_wraps_once() -> None:
    before, own = hooked(), dict(vars(Own))
    instrument()
    wrapped, wrapped_own = hooked(), dict(vars(Own))
    CrewAIInstrumentor().instrument()

    assert all(hooked()[target] is wrapped[target] for target in wrapped)
    assert all(wrapped[target] is not before[target] for target in before)
    assert wrapped_own["call"] is vars(Own)["call"]
    assert wrapped_own["call"] is not own["call"]
    CrewAIInstrumentor().uninstrument()
    assert all(hooked()[target] is before[target] for target in before)
    assert all(vars(Own)[name] is own[name] for name in ("call", "acall"))


def test_a_version_below_the_range_is_refused_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    monkeypatch.setattr(CrewAIInstrumentor, "_hooks", HookSet(HOOKS, supported=(VersionRange("crewai", "99", "99.1"),)))

    with pytest.raises(UnsupportedVersionError, match=r"'crewai' 1\.15\.\d+ is installed; .* tested with 'crewai>=99,"):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_a_missing_function_is_named_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    gone = Hook("crewai.crew", "no_such_function", lambda w, i, a, k: w(*a, **k))
    monkeypatch.setattr(CrewAIInstrumentor, "_hooks", HookSet((*HOOKS, gone)))

    with pytest.raises(HookError, match="no_such_function"):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)
    assert not hasattr(vars(Own)["call"], "_self_wrapper")


def test_the_secret_of_a_rollout_is_the_api_key_and_the_call_id_a_header(engine: ScriptedEngine) -> None:
    built = trainable(one_agent(engine.base_url))
    with scripted_rollout(engine) as rollout:
        built.kickoff(inputs=QUESTION)

    assert {seen.headers["authorization"] for seen in engine.requests} == {f"Bearer {rollout.secret}"}
    assert {seen.body["model"] for seen in engine.requests} == {"gpt-4o"}
    ids = [seen.headers["x-woodshed-call-id"] for seen in engine.requests]
    assert ids == [note.call_id for note in rollout.recorder.notes()]


def test_no_key_is_needed_inside_a_rollout(engine: ScriptedEngine) -> None:
    by = agent("gpt-4o")
    built = trainable(Crew(agents=[by], tasks=[task(by)]))
    with scripted_rollout(engine) as rollout:
        assert built.kickoff(inputs=QUESTION).raw == "3 for What is 1 + 2?"

    assert [note.author_model for note in rollout.recorder.notes()] == ["gpt-4o"]


def test_the_authors_short_timeout_does_not_cut_the_policy_off(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("slow but there", delay_s=0.4)
    instrument()
    with scripted_rollout(engine):
        assert llm(engine.base_url, timeout=0.05).call("x") == "slow but there"


def test_nothing_of_the_authors_is_changed(engine: ScriptedEngine) -> None:
    built = one_agent(engine.base_url)
    model = built.agents[0].llm

    def state() -> tuple[Any, ...]:
        clients = (model._client, model._async_client, model.base_url, model.api_key, dict(model.additional_params))
        return dict(os.environ), clients, id(built.agents[0].llm), id(built.agents[0].tools[0])

    def handlers() -> set[Any]:
        return {handler for handlers in crewai_event_bus._sync_handlers.values() for handler in handlers}

    built.kickoff(inputs=QUESTION)  # CrewAI adds handlers of its own when a crew first runs
    before, heard = state(), handlers()
    trainable(built)
    with scripted_rollout(engine):
        built.kickoff(inputs=QUESTION)
    CrewAIInstrumentor().uninstrument()

    assert state() == before
    assert handlers() - heard == set()


def test_a_model_class_of_the_authors_is_answered_by_the_policy_also_when_it_is_defined_later(
    engine: ScriptedEngine,
) -> None:
    instrument()

    class Later(Own):
        def call(self, messages: Any, *args: Any, **kwargs: Any) -> str:
            return "later"

    for kind in (Own, Later):
        with scripted_rollout(engine) as rollout:
            assert kind(model="mine", temperature=0.3).call("What is it?") == "3 for What is it?"
        (call,) = engine.trajectory(rollout).calls
        assert call.tokens.sampling == {"temperature": 0.3}
        assert call.note is not None
        assert call.note.author_model == "mine"
    assert Own(model="mine").call("x") == "the author's own answer"
    CrewAIInstrumentor().uninstrument()
    assert not hasattr(vars(Later)["call"], "_self_wrapper")
