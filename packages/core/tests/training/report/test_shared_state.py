"""State shared between attempts is seen by its effect, and nothing that only looks like it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from builders import asked, call, said

from woodshed.training.report.shared_state import shared_state
from woodshed.types import Message, ModelCall, Trajectory

LONG = "I looked in the storage room on the second floor and counted four lamps on the shelf next to the window."
OTHER = "There may be a few lamps left, but I did not look, since nobody answered the telephone this morning."
REFUSAL = "I'm sorry, but I can't assist with that request."


def user(text: str) -> Message:
    return Message(role="user", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def at(second: float, messages: Sequence[Message], answer: str | Message, agent: str | None = None) -> ModelCall:
    made = call(said(answer) if isinstance(answer, str) else answer, messages=messages, call_id=f"c{second}")
    note = made.note and made.note.model_copy(update={"agent": agent})
    return made.model_copy(update={"tokens": made.tokens.model_copy(update={"started_s": second}), "note": note})


def attempt(rollout_id: str, *calls: ModelCall, scenario: str = "lamps") -> Trajectory:
    return Trajectory(rollout_id=rollout_id, scenario_id=scenario, calls=calls, started_s=calls[0].tokens.started_s)


QUESTION = user("How many lamps?")


@pytest.mark.parametrize("answer", [LONG, "4", "yes", asked("look", '{"item": "lamp"}', id="call-77")], ids=repr)
def test_a_conversation_that_goes_on_from_another_attempts_is_named_with_both_rollouts(answer: Any) -> None:
    first = attempt("one", at(0, [QUESTION], answer))
    second = attempt("two", at(1, [QUESTION, first.calls[0].tokens.completions[0].message, QUESTION], OTHER))

    (warning,) = shared_state([second, first])

    assert "scenario 'lamps'" in warning and "rollout two" in warning and "rollout one" in warning
    assert "thread_id" in warning and "module level" in warning
    assert (answer[:30] if isinstance(answer, str) else "look(") in warning


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: [system(f"You sell lamps.\n# Memory\n- {text}"), QUESTION],
        lambda text: [user(f"How many lamps?\n\nHistorical data:\n{text[10:70]}")],
        lambda text: [user("How many lamps? Earlier:\n" + text.replace(" ", "\n "))],
        lambda text: [QUESTION, Message(role="tool", content=text, tool_call_id="x")],
    ],
    ids=["memory in the system prompt", "a part of it", "with other white space", "a tool's result"],
)
@pytest.mark.parametrize("scenario", ["lamps", "horns"])
def test_text_of_another_rollout_anywhere_in_the_first_prompt_is_seen(wrap: Any, scenario: str) -> None:
    writer = attempt("writer", at(0, [QUESTION], LONG))
    clean = attempt("clean", at(0.05, [QUESTION], OTHER), scenario=scenario)
    reader = attempt("reader", at(1, wrap(LONG), OTHER), scenario=scenario)

    (warning,) = shared_state([writer, clean, reader])

    assert f"rollout reader of scenario {scenario!r}" in warning and "rollout writer" in warning


def test_the_first_rollout_of_a_scenario_can_read_another_scenarios() -> None:
    writer = attempt("writer", at(0, [QUESTION], LONG))
    readers = [
        attempt(f"r{k}", at(1, [system(f"Memory: {LONG}"), user("Horns?")], OTHER), scenario="horns") for k in (1, 2)
    ]

    (warning,) = shared_state([writer, *readers])

    assert "of scenario 'lamps' wrote before" in warning


def test_a_later_agent_of_a_rollout_can_read_another_rollouts_text_too() -> None:
    writer = attempt("writer", at(0, [QUESTION], LONG, "coder"))
    reader = attempt("reader", at(1, [QUESTION], OTHER, "planner"), at(2, [user(f"Plan: {LONG}")], "ok", "coder"))

    assert len(shared_state([writer, reader])) == 1


def test_a_conversation_that_mixes_with_anothers_on_its_way_is_seen() -> None:
    one = attempt("one", at(0, [QUESTION], "4"))
    two = attempt(
        "two", at(0, [QUESTION], "5"), at(1, [QUESTION, said("4"), QUESTION, said("5"), user("Sure?")], "yes")
    )

    assert "rollout one wrote before: '4'" in shared_state([one, two])[0]


def healthy() -> dict[str, list[Trajectory]]:
    shots = [user("Is the sky blue?"), said("yes"), user("Is it green?"), said(LONG)]
    dated = [system(f"Today is day {k}. Documents: {LONG}") for k in range(4)]
    turns = [QUESTION, said("4"), user("Sure?")]
    rewritten = [QUESTION, said('{"n":4}'), user("Sure?")]
    refused = [[QUESTION], [user("Horns?"), said(REFUSAL), user("Please!")]]
    return {
        "independent": [attempt(str(k), at(k, [QUESTION], LONG)) for k in range(3)],
        "few-shot examples that the model repeats": [
            attempt(str(k), at(k, [*shots, QUESTION], a)) for k, a in enumerate(("yes", LONG, "yes"))
        ],
        "documents quoted from a prompt with a date": [attempt(str(k), at(k, [m], LONG)) for k, m in enumerate(dated)],
        "own history": [attempt(str(k), at(k, [QUESTION], "4"), at(k + 0.5, turns, "yes")) for k in range(3)],
        "own history, written anew by the framework": [
            attempt("0", at(0, [QUESTION], '{"n":4}'), at(0.5, rewritten, "yes")),
            attempt("1", at(1, [QUESTION], '```json {"n": 4.0}```'), at(1.5, rewritten, "yes")),
        ],
        "a scenario with a history of its own, and a common answer": [
            attempt(str(k), at(k, m, REFUSAL), scenario=str(k % 2)) for k, m in enumerate(refused * 2)
        ],
        "short words": [
            attempt("0", at(0, [QUESTION], "yes")),
            attempt("1", at(1, [user("Answer yes or no: lamps?")], "no")),
            attempt("2", at(2, [user("Horns?"), said("yes"), user("And now?")], "no"), scenario="horns"),
        ],
        "few-shot examples drawn at random, with short answers": [
            attempt("0", at(0, [QUESTION], "yes"), scenario="a"),
            attempt("1", at(1, [user("Horns?")], "yes"), scenario="b"),
            attempt("2", at(2, [QUESTION, said("yes"), user("Horns?")], "yes"), scenario="b"),
        ],
        "a plan handed from agent to agent": [
            attempt(str(k), at(k, [QUESTION], LONG, "plan"), at(k + 0.5, [user(f"Do: {LONG}")], "ok", "do"))
            for k in range(3)
        ],
        "a canned answer that the agent itself puts in": [
            attempt(str(k), at(k, [QUESTION, said("Understood."), user("Go")], "Understood.")) for k in range(3)
        ],
        "at the same time": [
            attempt("0", at(0, [QUESTION], LONG)), attempt("1", at(0.05, [user(f"Lamps? {LONG}")], LONG)),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", healthy())
def test_what_only_looks_like_shared_state_is_no_warning(name: str) -> None:
    trajectories = healthy()[name]

    assert shared_state(trajectories) == []
    assert shared_state(trajectories[::-1]) == []


def test_rollouts_without_calls_are_no_warning() -> None:
    assert shared_state([]) == []
    assert (
        shared_state([Trajectory(rollout_id="a", scenario_id="s"), Trajectory(rollout_id="b", scenario_id="s")]) == []
    )
