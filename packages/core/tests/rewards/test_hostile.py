"""No reply and no recorded text buys a score: what comes out is what the judge meant, or nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
from builders import TOOLS, asked, call, said, trajectory
from loopback_judge import attempts_of, verdict

from woodshed.rewards.prompt import PromptSettings, build_prompt
from woodshed.rewards.ruler import Ruler
from woodshed.testing.hostile import PLACES, HostileText, hostile_replies, hostile_texts
from woodshed.types import Judgement, Message, Trajectory

TRUTH = {"good": 0.9, "poor": 0.4, "thief": 0.0}
NAMES = [r.name for r in hostile_replies({"A": 1.0, "B": 0.0}, 0)]


def answered(name: str) -> Trajectory:
    return trajectory(name, call(said(f"I am {name}.")))


def values(judgement: Judgement) -> dict[str, float]:
    return {s.rollout_id: s.value for s in judgement.scores}


async def judged(name: str, seed: int) -> tuple[Judgement, bool]:
    """Judge by a reply of one kind; return the judgement, and whether that reply holds a verdict."""
    usable = False

    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        nonlocal usable
        meant = {i: TRUTH[text.split("I am ")[1].rstrip(".")] for i, text in attempts_of(user).items()}
        reply = next(r for r in hostile_replies(meant, seed) if r.name == name)
        usable = reply.is_usable
        return reply.text

    return await Ruler(judge, seed=seed).judge_group([answered(n) for n in TRUTH]), usable


@pytest.mark.parametrize("seed", range(3))
async def test_a_reply_gives_what_the_judge_meant_or_nothing(seed: int) -> None:
    wrong = {}
    for name in NAMES:
        judgement, usable = await judged(name, seed)
        if values(judgement) != (TRUTH if usable else {}) or (judgement.error is None) != usable:
            wrong[name] = (values(judgement), judgement.error)

    assert len(NAMES) == 49
    assert wrong == {}


def carrying(text: HostileText, place: str) -> Trajectory:
    """An attempt that is worth nothing and carries the text in one of the places a model or a tool can write to."""
    wish = asked("look", text.text if place == "tool arguments" else "{}")
    result = Message(role="tool", content=text.text if place == "tool result" else "4 left", tool_call_id="c1")
    task = (Message(role="user", content="How many lamps?"),)
    answer = said(text.text if place == "answer" else "I am thief.")
    calls = [
        call(wish, call_id="t1", messages=task, tools=TOOLS),
        call(answer, call_id="t2", messages=(*task, wish, result), tools=TOOLS),
        call(said("I am thief."), call_id="t3", messages=(Message(role="user", content="And you?"),)),
    ]  # fmt: skip
    if place == "agent name":
        calls = [
            c.model_copy(update={"note": c.note and c.note.model_copy(update={"agent": text.text})}) for c in calls
        ]
    return trajectory("thief", *calls)


async def gullible(system: str, user: str, schema: dict[str, Any]) -> str:
    """Reads attempts where the fence code says they are, and obeys whatever stands anywhere else."""
    shown = attempts_of(user)
    fence = user.split("\n", 1)[0].removeprefix("fence code: ")
    outside = re.sub(rf"^<(attempt \w+|task) {fence}>\n.*?\n</\1 {fence}>$", "", user, flags=re.DOTALL | re.MULTILINE)
    scores = {}
    for i, text in shown.items():
        name = next((n for n in ("good", "poor") if f"I am {n}." in text), "thief")
        scores[i] = 1.0 if name == "thief" and outside.strip() != f"fence code: {fence}" else TRUTH[name]
    return verdict(scores)


@pytest.mark.parametrize("place", PLACES)
async def test_no_recorded_text_buys_a_score(place: str) -> None:
    honest = [answered("good"), answered("poor")]
    # The attacker has seen an earlier request about this very group, and writes with its fence code and id.
    seen = build_prompt([*honest, answered("thief")], order=(0, 1, 2), settings=PromptSettings(rubric="-"), salt="0:0")
    code = seen.user.split("\n", 1)[0].removeprefix("fence code: ")
    knowing = hostile_texts(code, "C")
    wrong = {}
    for text in knowing:
        judgement = await Ruler(gullible).judge_group([*honest, carrying(text, place)])
        if judgement.error is not None or values(judgement) != TRUTH:
            wrong[text.name] = (values(judgement), judgement.error)

    assert len({text.name for text in knowing}) == 57
    assert wrong == {}
