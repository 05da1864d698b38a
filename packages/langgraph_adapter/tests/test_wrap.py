"""The door: what `wrap` accepts, what it refuses, and that hooks come and go exactly."""

from __future__ import annotations

import importlib
from typing import Any

import openai
import pytest
from author_graphs import QUESTION, agent, chat
from langchain_core.runnables import RunnableLambda
from langgraph.graph import MessagesState, StateGraph
from langgraph.pregel.remote import RemoteGraph

from woodshed.capture import Hook, HookSet, Rollout, VersionRange
from woodshed.capture.clients import sync_client
from woodshed.errors import ConfigError, HookError, UnsupportedVersionError
from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed_langgraph import LangGraphInstrumentor, instrument, wrap
from woodshed_langgraph.instrumentor import HOOKS


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


def test_a_graph_that_is_not_compiled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"StateGraph that is not compiled; pass `graph.compile\(\)`"):
        wrap(StateGraph(MessagesState))
    assert not LangGraphInstrumentor().instrumented


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got a langchain_core\.runnables\.base\.RunnableLambda.*instrument\(\)"):
        wrap(RunnableLambda(str))


def test_a_remote_graph_is_refused() -> None:
    with pytest.raises(ConfigError, match="models run in another process"):
        wrap(RemoteGraph("g", url="http://127.0.0.1:1"))


def test_uninstrument_restores_by_identity_and_double_instrument_wraps_once() -> None:
    before = hooked()
    instrument()
    wrapped = hooked()
    LangGraphInstrumentor().instrument()

    assert all(hooked()[target] is wrapped[target] for target in wrapped)
    assert all(wrapped[target] is not before[target] for target in before)
    LangGraphInstrumentor().uninstrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_every_hook_that_must_exist_does() -> None:
    assert [hook.path for hook in HOOKS if not hook.optional and hooked()[f"{hook.module}.{hook.path}"] is None] == []


def test_a_version_below_the_range_is_refused_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    monkeypatch.setattr(
        LangGraphInstrumentor, "_hooks", HookSet(HOOKS, supported=(VersionRange("langgraph", "99", "99.1"),))
    )

    with pytest.raises(
        UnsupportedVersionError, match=r"'langgraph' 1\.\S+ is installed; .* tested with 'langgraph>=99,"
    ):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_a_missing_function_is_named_and_nothing_is_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hooked()
    gone = Hook("langgraph.pregel._runner", "no_such_function", lambda w, i, a, k: w(*a, **k))
    monkeypatch.setattr(LangGraphInstrumentor, "_hooks", HookSet((*HOOKS, gone)))

    with pytest.raises(HookError, match="no_such_function"):
        instrument()
    assert all(hooked()[target] is before[target] for target in before)


def test_a_graph_configured_afterwards_is_still_recorded(engine: ScriptedEngine) -> None:
    graph = wrap(agent(chat(engine.base_url))).with_config(tags=["mine"])
    with scripted_rollout(engine) as rollout:
        graph.invoke(QUESTION)

    assert len(engine.trajectory(rollout).calls) == 2


def test_the_secret_of_a_rollout_is_the_api_key(engine: ScriptedEngine) -> None:
    graph = wrap(agent(chat(engine.base_url)))
    with scripted_rollout(engine) as rollout:
        graph.invoke(QUESTION)

    assert {seen.headers["authorization"] for seen in engine.requests} == {f"Bearer {rollout.secret}"}
    assert {seen.body["model"] for seen in engine.requests} == {"gpt-4o-mini"}
    ids = [seen.headers["x-woodshed-call-id"] for seen in engine.requests]
    assert ids == [note.call_id for note in rollout.recorder.notes()]


def test_the_authors_short_timeout_does_not_cut_the_policy_off(engine: ScriptedEngine) -> None:
    engine.script = lambda request: say("slow but there", delay_s=0.4)
    instrument()
    with scripted_rollout(engine):
        assert chat(engine.base_url, timeout=0.05).invoke("x").content == "slow but there"


@pytest.mark.parametrize(
    ("base_url", "through_a_proxy"),
    [("http://127.0.0.1:1/v1", False), ("http://localhost:1/v1", False), ("https://gpu-box:8900/v1", True)],
)
def test_loopback_never_goes_through_the_environments_proxy(base_url: str, through_a_proxy: bool) -> None:
    rollout = Rollout(base_url=base_url, secret="s")
    client = sync_client(rollout, 2)

    assert (client._client.trust_env, client.api_key) == (through_a_proxy, "s")
    assert isinstance(client.timeout, openai.Timeout)
    assert client.timeout.read == 600
