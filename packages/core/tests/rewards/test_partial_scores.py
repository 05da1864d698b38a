"""Scores of agents and of steps, where they are asked for: each of its own, or a problem that is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import TOOLS, asked, call, said, trajectory
from loopback_judge import attempts_of

from woodshed.rewards.partial_scores import Parts
from woodshed.rewards.prompt import PromptSettings, build_prompt
from woodshed.rewards.ruler import Ruler
from woodshed.rewards.verdict import read_verdict
from woodshed.types import Message, ModelCall, Trajectory


def by(agent: str, made: ModelCall) -> ModelCall:
    assert made.note is not None
    return made.model_copy(update={"note": made.note.model_copy(update={"agent": agent})})


def team(rollout_id: str, answer: str) -> Trajectory:
    """A cook of two steps, and a waiter of one."""
    wish, told = asked("look"), Message(role="tool", content="4", tool_call_id="c1")
    task = (Message(role="user", content="Dinner."),)
    return trajectory(
        rollout_id,
        by("cook", call(wish, call_id=f"{rollout_id}-1", messages=task, tools=TOOLS)),
        by("cook", call(said(answer), call_id=f"{rollout_id}-2", messages=(*task, wish, told), tools=TOOLS)),
        by(
            "waiter",
            call(said("Served."), call_id=f"{rollout_id}-3", messages=(Message(role="user", content="Serve."),)),
        ),
    )


def test_agents_and_steps_are_named_in_the_request_only_where_asked_for() -> None:
    group = (team("a", "Soup."), team("b", "Stew."))
    plain = build_prompt(group, order=(0, 1), settings=PromptSettings(rubric="R"), salt="")
    asked_for = build_prompt(
        group, order=(0, 1), settings=PromptSettings(rubric="R", details=("agents", "steps")), salt=""
    )

    text = attempts_of(asked_for.user)["A"].splitlines()
    assert [line for line in text if line.startswith(("--", "step"))] == [
        "-- agent cook --", "step 2:", "-- another conversation of this attempt, agent waiter --", "step 3:",
    ]  # fmt: skip
    assert "step" not in plain.user
    assert "steps" not in plain.system
    assert asked_for.parts == {i: Parts(agents=("cook", "waiter"), steps=3) for i in "AB"}
    assert list(asked_for.schema["properties"]["scores"]["items"]["properties"]) == [
        "id", "explanation", "agents", "steps", "score",
    ]  # fmt: skip


async def test_scores_of_agents_and_steps_come_back_by_name_and_by_call() -> None:
    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        good = {i: "Soup" in text for i, text in attempts_of(user).items()}
        return json.dumps({"scores": [
            {"id": i, "explanation": "", "score": 0.9 if g else 0.2, "steps": [0.5, 1.0 if g else 0.0, 0.7],
             "agents": [{"agent": "waiter", "score": 0.7}, {"agent": "cook", "score": 1.0 if g else 0.1}]}
            for i, g in good.items()
        ]})  # fmt: skip

    judgement = await Ruler(judge, details=("steps", "agents")).judge_group(
        (team("a", "Soup."), team("b", "Stew."), team("c", "Soup."))
    )

    scores = {s.rollout_id: s for s in judgement.scores}
    assert judgement.error is None
    assert scores["a"].agents == scores["c"].agents == {"cook": 1.0, "waiter": 0.7}
    assert scores["b"].agents == {"cook": 0.1, "waiter": 0.7}
    assert scores["b"].calls == {"b-1": 0.5, "b-2": 0.0, "b-3": 0.7}
    assert scores["c"].calls == {"c-1": 0.5, "c-2": 1.0, "c-3": 0.7}


WRONG = {
    "no steps": ({"agents": [{"agent": "cook", "score": 1}]}, "'steps' of 'A' is None; expected 2 scores"),
    "too few": ({"agents": [{"agent": "cook", "score": 1}], "steps": [1]}, "'steps' of 'A' is 1 scores; expected 2"),
    "out of range": ({"agents": [{"agent": "cook", "score": 1}], "steps": [1, 7]}, "step 2 of 'A' is scored 7"),
    "true": ({"agents": [{"agent": "cook", "score": 1}], "steps": [1, True]}, "step 2 of 'A' is scored True"),
    "no agents": ({"steps": [1, 1]}, "'agents' of 'A' has no score for 'cook'"),
    "a stranger": ({"agents": [{"agent": "thief", "score": 1}], "steps": [1, 1]}, "expected each of ['cook'] once"),
    "twice": ({"agents": [{"agent": "cook", "score": 1}] * 2, "steps": [1, 1]}, "expected each of ['cook'] once"),
    "no number": ({"agents": [{"agent": "cook", "score": "1"}], "steps": [1, 1]}, "agent 'cook' of 'A' is scored '1'"),
    "a mapping": ({"agents": {"cook": 1}, "steps": [1, 1]}, "'agents' of 'A' has no score for 'cook'"),
}


@pytest.mark.parametrize(("entry", "problem"), WRONG.values(), ids=WRONG)
def test_a_part_that_is_not_scored_as_asked_is_a_problem(entry: dict[str, Any], problem: str) -> None:
    reply = json.dumps({"scores": [{"id": "A", "explanation": "", "score": 1, **entry}]})

    reading = read_verdict(reply, ["A"], {"A": Parts(agents=("cook",), steps=2)})

    assert reading.scores == {}
    assert any(problem in p for p in reading.problems), reading.problems
