"""Several judges, a second one where the first is not consistent, and a ceiling on what all of it costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from builders import call, said, trajectory
from loopback_judge import LoopbackJudge, attempts_of, fails, grades, says, verdict

from woodshed.errors import ConfigError, CostCeilingError
from woodshed.rewards.aggregate import consistency_of
from woodshed.rewards.cache import SqliteCache
from woodshed.rewards.judge import Judge
from woodshed.rewards.ruler import Ruler
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import Judgement, Trajectory

Ask = Callable[[str, str, dict[str, Any]], Awaitable[str]]


def answered(text: str) -> Trajectory:
    return trajectory(text, call(said(text)))


GROUP = tuple(answered(text) for text in ("four lamps", "some lamps", "no idea"))


def values(judgement: Judgement) -> dict[str, float]:
    return {s.rollout_id: round(s.value, 6) for s in judgement.scores}


def grader(name: str, *scores: float) -> Ask:
    """A judge of the three attempts, by what they say."""

    async def grade(system: str, user: str, schema: dict[str, Any]) -> str:
        by_text = dict(zip((t.rollout_id for t in GROUP), scores, strict=True))
        return verdict({i: by_text[text.removeprefix("assistant: ")] for i, text in attempts_of(user).items()})

    grade.__qualname__ = name
    return grade


async def silent(system: str, user: str, schema: dict[str, Any]) -> str:
    return ""


async def by_place(system: str, user: str, schema: dict[str, Any]) -> str:
    """Whoever comes first is best."""
    return verdict({i: 1 - place / 10 for place, i in enumerate(attempts_of(user))})


async def test_the_median_of_a_panel_counts() -> None:
    ruler = Ruler((grader("kind", 1.0, 0.9, 0.9), grader("fair", 0.9, 0.5, 0.1), grader("harsh", 0.2, 0.1, 0.0)))

    judgement = await ruler.judge_group(GROUP)

    assert values(judgement) == {"four lamps": 0.9, "some lamps": 0.5, "no idea": 0.1}
    assert judgement.judge.split(" + ") == [f"{__name__}.{n}" for n in ("kind", "fair", "harsh")]
    assert judgement.requests == 3


async def test_a_panel_goes_on_without_a_minority_that_fails() -> None:
    ruler = Ruler((silent, grader("fair", 0.9, 0.5, 0.1), grader("stern", 0.7, 0.3, 0.1)))

    judgement = await ruler.judge_group(GROUP)

    assert values(judgement) == {"four lamps": 0.8, "some lamps": 0.4, "no idea": 0.1}
    assert "silent" not in judgement.judge


async def test_half_a_panel_is_no_verdict() -> None:
    judgement = await Ruler((silent, grader("fair", 0.9, 0.5, 0.1))).judge_group(GROUP)

    assert judgement.scores == ()
    assert judgement.error is not None
    assert judgement.error.kind == "JudgeError"


async def test_a_judge_that_goes_by_the_place_is_found_inconsistent_and_replaced() -> None:
    steady = grader("steady", 0.9, 0.5, 0.1)

    alone = await Ruler(by_place, permutations=2).judge_group(GROUP)
    helped = await Ruler(by_place, permutations=2, escalate_to=steady).judge_group(GROUP)
    content = await Ruler(steady, permutations=2, escalate_to=by_place).judge_group(GROUP)

    assert alone.consistency == 0.0
    assert values(helped) == {"four lamps": 0.9, "some lamps": 0.5, "no idea": 0.1}
    assert (helped.judge, helped.requests, helped.consistency) == (f"{__name__}.steady", 4, 1.0)
    assert (content.judge, content.requests, content.consistency) == (f"{__name__}.steady", 2, 1.0)


async def test_a_second_judge_that_fails_masks_the_group() -> None:
    judgement = await Ruler(by_place, permutations=2, escalate_to=silent).judge_group(GROUP)

    assert judgement.scores == ()
    assert judgement.error is not None
    assert (
        judgement.requests == 2 + 2 * 2
    )  # the first in two orders, the second too, and a repair of each reply of its own


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.1, 0.5, 0.9], [0.0, 0.1, 0.2]], 1.0),
        ([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]], 0.0),
        ([[0.1, 0.5, 0.9], [0.5, 0.1, 0.9]], 2 / 3),
        ([[0.1, 0.5], [0.3, 0.3]], 0.5),
        ([[0.1, 0.5]], None),
    ],
)
def test_consistency_counts_the_pairs_that_keep_their_order(rows: list[list[float]], expected: float | None) -> None:
    found = consistency_of([[AttemptScore(score=s, explanation="") for s in row] for row in rows], 0.0)

    assert found == (None if expected is None else pytest.approx(expected))


def priced(server: LoopbackJudge, **more: Any) -> Judge:
    """100 prompt and 10 completion tokens a reply: 0.01 USD."""
    return server.judge(prompt_usd_per_million=50.0, completion_usd_per_million=500.0, **more)


async def test_the_ceiling_stops_before_it_is_passed_and_nothing_paid_is_lost(
    server: LoopbackJudge, tmp_path: Path
) -> None:
    server.script = [says(grades({"four": 0.9, "some": 0.4, "no": 0.0}))]
    path = tmp_path / "judge.sqlite"
    cache = SqliteCache(path)
    judge = priced(server, max_concurrency=1)

    with pytest.raises(CostCeilingError, match=r"has cost 0\.03 USD .*max_cost_usd=0\.035\). All rollouts"):
        await Ruler(judge, permutations=6, max_cost_usd=0.035, cache=cache).judge_group(GROUP)
    assert len(server.requests) == 3
    cache.close()

    # Another process, a higher ceiling: what was paid counts, and is not paid again.
    cache = SqliteCache(path)
    judgement = await Ruler(judge, permutations=6, max_cost_usd=0.07, cache=cache).judge_group(GROUP)
    assert len(server.requests) == 6
    assert judgement.requests == 3
    assert values(judgement)["four lamps"] == 0.9
    with pytest.raises(CostCeilingError):
        await Ruler(judge, permutations=8, max_cost_usd=0.06, cache=cache).judge_group(GROUP)
    assert len(server.requests) == 6
    cache.close()


async def test_requests_at_once_do_not_pass_the_ceiling_together(server: LoopbackJudge) -> None:
    server.script = [says(grades({"four": 0.9, "some": 0.4, "no": 0.0}), hangs_s=0.5)]
    ruler = Ruler(priced(server), permutations=10, max_cost_usd=0.045)

    with pytest.raises(CostCeilingError):
        await ruler.judge_group(GROUP)

    assert len(server.requests) == 4
    assert 1 < server.busiest <= 3
    assert ruler.cache.paid_usd() == pytest.approx(0.04)


async def test_a_request_without_a_reply_frees_its_place(server: LoopbackJudge) -> None:
    server.script = [fails(500), says(grades({"four": 0.9, "some": 0.4, "no": 0.0}))]
    ruler = Ruler(priced(server, max_retries=0), max_cost_usd=0.015)

    failed, judged = await ruler.judge_group(GROUP), await ruler.judge_group(GROUP)

    assert failed.error is not None
    assert judged.error is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judge": ()}, "name one judge, or several"),
        ({"judge": (silent, silent)}, "the same judge twice"),
        ({"judge": by_place, "escalate_to": silent}, "escalate_to needs permutations=2"),
        ({"judge": by_place, "escalate_below": 1.5}, r"escalate_below is 1\.5"),
        ({"judge": by_place, "max_attempts": 2}, "max_attempts is 2; expected at least 3"),
        ({"judge": by_place, "attempt_chars": 0}, "attempt_chars is 0"),
        ({"judge": by_place, "details": ("thoughts",)}, r"details is \('thoughts',\); expected a tuple of names from"),
        ({"judge": by_place, "details": "steps"}, "expected a tuple"),
        ({"judge": "gpt-5-mini", "max_cost_usd": 1.0}, "the price of judge 'gpt-5-mini' is not known"),
        ({"judge": by_place, "max_cost_usd": 1.0}, "the price of judge '.*by_place' is not known"),
        ({"judge": "engine/judge", "max_cost_usd": -1.0}, r"max_cost_usd is -1\.0; expected more than 0"),
        ({"judge": by_place, "rubric": " \n"}, "rubric is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_settings_that_cannot_work_are_refused_at_construction(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Ruler(**settings)


def test_a_raised_ceiling_is_the_same_reward_to_a_resumed_run() -> None:
    judge = Judge("m", prompt_usd_per_million=1.0, completion_usd_per_million=1.0)

    assert repr(Ruler(judge, max_cost_usd=1.0)) == repr(Ruler(judge, max_cost_usd=2.0))
    assert repr(Ruler(Judge("m", timeout_s=1, max_retries=0, max_concurrency=1))) == repr(Ruler("m"))
    assert repr(Ruler(Judge("m", temperature=0.5))) != repr(Ruler("m"))
    assert repr(Ruler((by_place, silent))) != repr(Ruler((silent, by_place)))
