"""The door: what `instrument` accepts, and that hooks come and go exactly."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from author_agents import AGENTS, QUESTION, author_model, with_tool
from google.adk.apps.app import App
from google.adk.models.google_llm import Gemini
from google.genai import types
from running import QUIET, ask, runner_of, said

from woodshed.capture import Hook, HookSet, VersionRange
from woodshed.errors import HookError, UnsupportedVersionError
from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed_adk import AdkInstrumentor, instrument
from woodshed_adk.instrumentor import HOOKS

pytestmark = QUIET


def hooked() -> dict[str, Any]:
    """Return what every hooked owner itself holds now, by target; optional ones only where they exist."""
    held_at = {}
    for hook in HOOKS:
        owner: Any = importlib.import_module(hook.module)
        *parents, name = hook.path.split(".")
        for parent in parents:
            owner = getattr(owner, parent, None)
        held = vars(owner).get(name) if owner is not None else None
        if held is not None or not hook.optional:
            held_at[f"{hook.module}.{hook.path}"] = held
    return held_at


@pytest.mark.parametrize("name", AGENTS)
def test_every_kind_of_agent_is_accepted_and_returned_untouched(engine: ScriptedEngine, name: str) -> None:
    built = AGENTS[name](author_model(engine.base_url))
    root = built.root_agent if isinstance(built, App) else built
    before = dict(vars(root))

    assert instrument(root) is root
    assert vars(root) == before
    assert AdkInstrumentor().instrumented


def test_without_an_agent_the_process_is_hooked() -> None:
    assert instrument() is None  # type: ignore[func-returns-value]
    assert AdkInstrumentor().instrumented


def test_uninstrument_restores_by_identity_and_double_instrument_wraps_once() -> None:
    before = hooked()
    instrument()
    wrapped = hooked()
    AdkInstrumentor().instrument()

    assert all(hooked()[target] is wrapped[target] for target in wrapped)
    assert all(wrapped[target] is not before[target] for target in before)
    AdkInstrumentor().uninstrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_every_hook_that_must_exist_does() -> None:
    assert [hook.path for hook in HOOKS if not hook.optional and hooked()[f"{hook.module}.{hook.path}"] is None] == []


def test_a_version_below_the_range_is_refused_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    monkeypatch.setattr(
        AdkInstrumentor, "_hooks", HookSet(HOOKS, supported=(VersionRange("google-adk", "99", "99.1"),))
    )

    with pytest.raises(UnsupportedVersionError, match=r"'google-adk' 2\.\S+ is installed; .*with 'google-adk>=99,"):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_a_missing_function_is_named_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    gone = Hook("google.adk.runners", "Runner.no_such_function", lambda w, i, a, k: w(*a, **k))
    monkeypatch.setattr(AdkInstrumentor, "_hooks", HookSet((*HOOKS, gone)))

    with pytest.raises(HookError, match="no_such_function"):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)


async def test_instrumented_but_outside_a_rollout_nothing_changes(engine: ScriptedEngine) -> None:
    before = said(await ask(runner_of(with_tool(author_model(engine.base_url))), QUESTION))
    built = instrument(with_tool(author_model(engine.base_url)))

    assert said(await ask(runner_of(built), QUESTION)) == before == ["It is three"]
    assert {seen.headers["authorization"] for seen in engine.requests} == {"Bearer author"}
    assert not [seen for seen in engine.requests if "x-woodshed-call-id" in seen.headers]


async def test_the_secret_of_a_rollout_is_the_api_key(engine: ScriptedEngine) -> None:
    built = instrument(with_tool(author_model(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        await ask(runner_of(built), QUESTION)

    assert {seen.headers["authorization"] for seen in engine.requests} == {f"Bearer {rollout.secret}"}
    assert {seen.body["model"] for seen in engine.requests} == {"gpt-4o-mini"}
    ids = [seen.headers["x-woodshed-call-id"] for seen in engine.requests]
    assert ids == [note.call_id for note in rollout.recorder.notes()]


async def test_the_authors_own_object_is_never_asked_nor_changed(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    model = Gemini(model="gemini-2.5-pro")
    before = dict(vars(model))
    built = instrument(with_tool(model))
    with scripted_rollout(engine) as rollout:
        events = await ask(runner_of(built), QUESTION)

    assert said(events) == ["It is three"]
    assert (vars(model), built.model) == (before, model)
    assert {note.author_model for note in rollout.recorder.notes()} == {"gemini-2.5-pro"}


async def test_the_authors_retries_and_limits_are_kept(engine: ScriptedEngine) -> None:
    options = types.HttpRetryOptions(attempts=1)
    once = with_tool(Gemini(model="gemini-2.5-pro", retry_options=options))
    once.generate_content_config = types.GenerateContentConfig(temperature=0.3, max_output_tokens=9, top_k=5)
    instrument(once)
    with scripted_rollout(engine):
        await ask(runner_of(once), QUESTION)
        with_limit = with_tool(author_model(engine.base_url, max_tokens=77))
        await ask(runner_of(with_limit), QUESTION)

    bodies = [seen.body for seen in engine.requests]
    assert [(body.get("temperature"), body.get("max_tokens"), body.get("top_k")) for body in bodies] == [
        (0.3, 9, 5),
        (0.3, 9, 5),
        (None, 77, None),
        (None, 77, None),
    ]


async def test_the_policy_may_think_for_long(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("slow but there", delay_s=0.4)
    with scripted_rollout(engine):
        assert said(await ask(runner_of(instrument(with_tool("gemini-2.5-flash"))), QUESTION)) == ["slow but there"]
