"""Attempts that people have scored are read line by line, and a bad line is named with its field."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from woodshed.errors import ConfigError
from woodshed.rewards.calibration import bootstrap_interval, success_rate
from woodshed.rewards.gold import read_gold


def line(scenario: str, text: str, score: float | None, **more: Any) -> dict[str, Any]:
    return {"scenario": scenario, "task": f"Do {scenario}.", "text": text, "score": score, **more}


def usable() -> list[dict[str, Any]]:
    return [line(f"s{n}", f"attempt {k} of {n}", k / 3) for n in range(6) for k in range(4)]


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in lines) + "\n")
    return path


def test_attempts_become_groups_by_scenario(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Look it up."},
        {"role": "user", "content": [{"type": "text", "text": "Lamps?"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
        {"role": "assistant", "content": "Four."},
    ]  # fmt: skip
    other = [*talk[:2], {"role": "assistant", "content": "No idea."}]
    file = written(
        tmp_path / "g.jsonl",
        [
            *usable(),
            "",
            {"scenario": "talk", "messages": talk, "score": 1},
            {"scenario": "talk", "messages": other, "score": None},
        ],
    )

    groups = read_gold(file)

    assert [g.name for g in groups] == [*(f"s{n}" for n in range(6)), "talk"]
    assert groups[0].worth == {f"line {n}": pytest.approx((n - 1) / 3) for n in range(1, 5)}
    assert groups[-1].worth == {"line 26": 1.0}
    traced = groups[-1].trajectories[0].calls[0].tokens
    assert [m.role for m in traced.messages] == ["system", "user", "assistant", "tool"]
    assert (traced.messages[2].tool_requests[0].name, traced.messages[1].content) == ("stock", "Lamps?")
    assert traced.completions[0].message.content == "Four."


BAD: dict[str, tuple[Any, str]] = {
    "not JSON": ("{nope", r"line 3 of .* is not JSON"),
    "not an object": ([1], r"line 3 .*the line is \[1\]; expected"),
    "no scenario": (line("", "x", 1), r"line 3 .*'scenario' is ''; expected the scenario's id"),
    "scenario a number": ({**line("a", "x", 1), "scenario": 7}, r"line 3 .*'scenario' is 7"),
    "score in percent": (line("s0", "x", 85), r"line 3 .*'score' is 85; expected a number from 0 to 1, or null"),
    "score a text": (line("s0", "x", "good"), r"line 3 .*'score' is 'good'"),  # type: ignore[arg-type]
    "score true": (line("s0", "x", True), r"line 3 .*'score' is True"),
    "score NaN": (line("s0", "x", float("nan")), r"line 3 .*'score' is nan"),
    "no score": ({"scenario": "s0", "task": "Do s0.", "text": "x"}, r"line 3 .*'score' is 'missing'"),
    "no task": ({"scenario": "s0", "text": "x", "score": 1}, r"line 3 .*'task' is None; expected a text"),
    "empty text": (line("s0", " ", 1), r"line 3 .*'text' is ' '"),
    "unknown key": (line("s0", "x", 1, rating=3), r"line 3 .*the key 'rating' is 3; expected no key but"),
    "both forms": (line("s0", "x", 1, messages=[]), r"line 3 .*expected either messages, or task and text"),
    "messages a text": ({"scenario": "s0", "messages": "hi", "score": 1}, r"line 3 .*'messages' is 'hi'"),
    "bad role": (
        {"scenario": "s0", "messages": [{"role": "bot"}, {"role": "assistant"}], "score": 1},
        r"line 3 .*'messages\[0\]' is .*expected an object with a role",
    ),
    "bad content": (
        {"scenario": "s0", "messages": [{"role": "user", "content": 3}, {"role": "assistant"}], "score": 1},
        r"line 3 .*'messages\[0\].content' is 3",
    ),
    "bad call": (
        {"scenario": "s0", "score": 1, "messages": [{"role": "user"}, {"role": "assistant", "tool_calls": [{}]}]},
        r"line 3 .*'messages\[1\].tool_calls' is",
    ),
    "ends with the user": (
        {"scenario": "s0", "messages": [{"role": "assistant"}, {"role": "user"}], "score": 1},
        r"line 3 .*'messages\[1\].role' is 'user'; expected 'assistant'",
    ),
    "other task": ({**line("s0", "x", 1), "task": "Another."}, r"lines 1 and 3 .*one 'scenario', 's0', and different"),
    "misspelt id": (line("S0", "x", 1), r"line 3 .*the only attempt at 'scenario' 'S0'.*Is the id misspelt"),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "said"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, bad: Any, said: str) -> None:
    lines = usable()
    lines.insert(2, bad)

    with pytest.raises(ConfigError, match=said):
        read_gold(written(tmp_path / "g.jsonl", lines))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "has 0 scored attempts, and 0 scenarios"),
        (usable()[:16], r"has 16 scored attempts.*expected at least 20 and 5"),
        ([{**entry, "score": 1} for entry in usable()], r"24 scored attempts, and 0 scenarios with different scores"),
        ([{**entry, "score": None} for entry in usable()], r"has 0 scored attempts"),
    ],
    ids=["empty", "few", "all equal", "nothing scored"],
)
def test_too_few_scores_are_refused(tmp_path: Path, lines: list[Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_gold(written(tmp_path / "g.jsonl", lines))


def test_a_file_that_is_none_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')

    with pytest.raises(ConfigError, match="is not a file; expected one JSON object a line"):
        read_gold(tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 13"):
        read_gold(tmp_path / "latin.jsonl")


def test_the_success_rate_is_corrected_for_the_judges_errors() -> None:
    """A judge that calls 90 % of successes and 40 % of failures a success."""
    rate = success_rate([True] * 60 + [False] * 40, [True] * 90 + [False] * 10, [True] * 40 + [False] * 60)

    assert (rate.judged, rate.sensitivity, rate.specificity) == (0.6, 0.9, pytest.approx(0.6))
    assert rate.corrected == pytest.approx((0.6 + 0.6 - 1) / 0.5)
    assert rate.interval is not None
    assert rate.interval[0] < 0.4 < rate.interval[1]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(3)
    truth, sensitivity, specificity, held, trials = 0.3, 0.85, 0.7, 0, 1500
    for _ in range(trials):
        judged = [draw.random() < (sensitivity if draw.random() < truth else 1 - specificity) for _ in range(200)]
        successes = [draw.random() < sensitivity for _ in range(25)]
        failures = [draw.random() < 1 - specificity for _ in range(25)]
        interval = success_rate(judged, successes, failures).interval
        held += interval is not None and interval[0] <= truth <= interval[1]

    assert 0.93 <= held / trials <= 0.98


def test_a_judge_that_is_a_coin_corrects_nothing() -> None:
    rate = success_rate([True], [True, False], [True, False])

    assert (rate.corrected, rate.interval) == (None, None)
    with pytest.raises(ValueError, match="needs judged attempts"):
        success_rate([True], [], [True])


def test_the_bootstrap_interval_holds_the_mean_and_narrows_with_more_groups() -> None:
    draw = random.Random(0)
    few, many = ([draw.choice((-1.0, 0.0, 1.0, 1.0)) for _ in range(n)] for n in (10, 400))

    widths = [high - low for low, high in map(bootstrap_interval, (few, many))]
    assert widths[0] > 3 * widths[1]
    assert bootstrap_interval([0.7] * 5) == pytest.approx((0.7, 0.7))
