"""What a rollout's recorder keeps, and how both planes are joined into a trajectory."""

from __future__ import annotations

import threading

import pytest

from woodshed.capture import Recorder, Rollout, assemble, model_span, rollout
from woodshed.errors import ConfigError
from woodshed.types import CallMetadata, Failure, ModelCall, SealedSession, TokenCall


def test_a_call_is_noted_with_its_context_and_keeps_a_late_superseded() -> None:
    recorder = Recorder()
    call = recorder.open_call(agent="planner", parent_call_id="p", author_model="gpt-x", attempt=2)
    call.superseded = True

    assert recorder.notes() == (
        CallMetadata(
            call_id=call.call_id,
            agent="planner",
            parent_call_id="p",
            attempt=2,
            superseded=True,
            author_model="gpt-x",
        ),
    )


def test_an_observed_exception_is_noted_and_passes_untouched() -> None:
    rollout, error = Rollout(base_url="http://127.0.0.1:9/v1", secret="s"), ValueError("no")
    with pytest.raises(ValueError) as caught, model_span(rollout, author_model=None, agent="a"):
        raise error

    assert caught.value is error
    assert rollout.recorder.notes()[0].error == Failure(kind="ValueError", message="no")


def test_a_tool_call_keeps_its_first_exception_and_its_latency() -> None:
    tool = Recorder().open_tool(tool_call_id="t1", name="add", arguments={"a": 1})
    tool.close(error=KeyError("inner"))
    latency = tool.tool_call().latency_s
    tool.close("Error: outer", error=RuntimeError("outer"))

    kept = tool.tool_call()
    assert (kept.result, kept.error, kept.latency_s) == (
        "Error: outer",
        Failure(kind="KeyError", message="'inner'"),
        latency,
    )


def test_calls_of_many_threads_are_all_kept_under_different_ids() -> None:
    recorder = Recorder()
    threads = [threading.Thread(target=lambda: [recorder.open_call() for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({note.call_id for note in recorder.notes()}) == 1600


def served(call_id: str) -> TokenCall:
    return TokenCall(call_id=call_id, started_s=1.0, latency_s=0.1, messages=())


def test_both_planes_are_joined_by_call_id() -> None:
    run = Rollout(base_url="http://x/v1", secret="s", scenario_id="sc", rollout_id="r")
    noted = run.recorder.open_call(agent="a")
    sealed = SealedSession(rollout_id="r", calls=(served("foreign"), served(noted.call_id)))

    trajectory = assemble(run, sealed, status="completed", output={"metrics": {"turns": 2}, "text": "x"})
    assert trajectory.calls == (
        ModelCall(tokens=served("foreign")),
        ModelCall(tokens=served(noted.call_id), note=noted.note()),
    )
    assert (trajectory.scenario_id, trajectory.metrics) == ("sc", {"turns": 2.0})


def test_a_call_the_engine_never_saw_is_kept_without_tokens() -> None:
    run = Rollout(base_url="http://x/v1", secret="s", rollout_id="r")
    lost = run.recorder.open_call()

    calls = assemble(run, SealedSession(rollout_id="r", calls=()), status="failed").calls
    assert [(c.tokens.call_id, c.tokens.error and c.tokens.error.kind) for c in calls] == [(lost.call_id, "NotServed")]


def test_an_output_that_is_not_json_is_not_kept() -> None:
    run = Rollout(base_url="http://x/v1", secret="s", rollout_id="r")

    assert assemble(run, SealedSession(rollout_id="r", calls=()), status="completed", output=object()).output is None


async def test_a_rollout_function_is_called_as_before() -> None:
    @rollout
    async def answer(scenario: str) -> str:
        """Answer it."""
        return scenario.upper()

    assert (await answer("hi"), answer.is_async, answer.__doc__) == ("HI", True, "Answer it.")


def test_a_rollout_function_must_take_a_scenario() -> None:
    with pytest.raises(ConfigError, match=r"'.*nothing' cannot be called with one scenario"):

        @rollout
        def nothing() -> None: ...
