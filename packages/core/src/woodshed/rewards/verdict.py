"""A judge's reply → one score per attempt, keyed by id; or every rule of the reply format that it breaks."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.rewards.partial_scores import Parts, read_parts

_MAX_CHARACTERS = 1_000_000
_MAX_LISTED = 20
_WORDS = "think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad|seed:think"
_THINKING = re.compile(
    rf"<(?:{_WORDS})>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel\|>(?:analysis|commentary)", re.IGNORECASE
)
_THOUGHT = re.compile(
    rf"</(?:{_WORDS})>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>", re.IGNORECASE
)
"""Where models begin and end to think, where their server leaves it in the answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptScore:
    """The judge's score of one attempt."""

    score: float
    """0 to 1."""
    explanation: str
    agents: Mapping[str, float] = field(default_factory=dict)
    """Agent → its own score, if requested."""
    steps: tuple[float, ...] = ()
    """One score per step, if requested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedReply:
    """A judge's reply after parsing: a score for every attempt id, or the problems that make it unusable."""

    scores: dict[str, AttemptScore]
    problems: tuple[str, ...]


def read_verdict(reply: str, ids: Sequence[str], parts: Mapping[str, Parts] | None = None) -> ParsedReply:
    """Return a score for each of `ids`, or all problems of the reply. Scores are matched by id, never by position.

    The JSON may be surrounded by prose or a Markdown fence. A reply with two different verdicts is refused: one of them
    may be quoted from an attempt.

    Args:
        reply: the judge's reply.
        ids: ids of the attempts in the request.
        parts: attempt id → its parts that need a score of their own.
    """
    if len(reply) > _MAX_CHARACTERS:
        return _refused(f"the reply has {len(reply)} characters, more than {_MAX_CHARACTERS}")
    try:
        answer = _after_thinking(reply).strip()
        if reply.strip() and not answer:
            return _refused("the reply holds thinking only, and no verdict after it")
        return _find(answer, ids, parts or {})
    except RecursionError:
        return _refused("the JSON is nested too deeply to be read")


def _after_thinking(reply: str) -> str:
    """Return what follows a reply's thinking: a verdict in it is a draft. A tag that a JSON object quotes is none."""
    ends = [found.span() for found in _THOUGHT.finditer(reply)]
    if ends:
        quoted = [(start, end) for start, end, _ in _objects(reply)]
        reply = reply[max((b for a, b in ends if not any(s < a < e for s, e in quoted)), default=0) :]
    # Cut while it was still thinking.
    return "" if _THINKING.match(reply.lstrip()) else reply


def _find(text: str, ids: Sequence[str], parts: Mapping[str, Parts]) -> ParsedReply:
    verdicts = list(_verdicts(text))
    if not verdicts:
        return _refused(_no_verdict(text))
    if any(repr(other) != repr(verdicts[0]) for other in verdicts[1:]):
        return _refused(f"the reply holds {len(verdicts)} different JSON objects with 'scores'; expected one")
    return _read(verdicts[0], ids, parts)


class _Object(dict[str, Any]):
    """A JSON object that records duplicate keys; a plain dict keeps only the last value."""

    repeated: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        parsed = cls(pairs)
        parsed.repeated = tuple(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
        return parsed

    def __repr__(self) -> str:
        return f"{super().__repr__()}{self.repeated or ''}"


_DECODER = json.JSONDecoder(object_pairs_hook=_Object.of)


def _verdicts(text: str) -> Iterator[_Object]:
    """Yield every outermost JSON object in `text` that has the key `scores`."""
    for _, _, value in _objects(text):
        if isinstance(value, _Object) and "scores" in value:
            yield value


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield start, end and value of every outermost JSON object in `text`."""
    start = text.find("{")
    while start >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except ValueError:
            end = start + 1
        else:
            yield start, end, value
        start = text.find("{", end)


def _no_verdict(text: str) -> str:
    if not text:
        return "the reply is empty"
    start = text.find("{")
    if start < 0:
        return f"the reply holds no JSON object; it begins {_short(text)}"
    try:
        value, _ = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        return (
            f"the JSON is cut or malformed at character {error.pos} ({error.msg}); the reply ends {_short(text[-60:])}"
        )
    except ValueError as error:
        return f"the JSON cannot be read: {error}"
    return f"the JSON has no key 'scores'; it is {_short(value)}"


def _read(verdict: _Object, ids: Sequence[str], parts: Mapping[str, Parts]) -> ParsedReply:
    problems = _repeated(verdict, "the object")
    entries = verdict["scores"]
    if not isinstance(entries, list):
        return _refused(*problems, f"'scores' is {_short(entries)}; expected a list with one entry an attempt")
    scores: dict[str, AttemptScore] = {}
    times: Counter[str] = Counter()
    for number, entry in enumerate(entries, 1):
        attempt = entry.get("id") if isinstance(entry, _Object) else None
        if not isinstance(entry, _Object) or not isinstance(attempt, str):
            problems.append(
                f"entry {number} is {_short(entry)}; expected an object with 'id', 'explanation' and 'score'"
            )
            continue
        times[attempt] += 1
        if attempt not in ids:
            problems.append(f"entry {number} scores attempt {_short(attempt)}, which does not exist")
            continue
        part_scores, part_problems = read_parts(entry, attempt, parts.get(attempt, Parts()))
        entry_problems = _repeated(entry, f"the entry of {attempt!r}") + _wrong_values(entry, attempt) + part_problems
        problems += entry_problems
        if not entry_problems:
            scores[attempt] = AttemptScore(
                score=float(entry["score"]),
                explanation=entry["explanation"].strip(),
                agents=part_scores.agents,
                steps=part_scores.steps,
            )
    problems += [f"attempt {i!r} is scored {times[i]} times; expected once" for i in ids if times[i] > 1]
    missing = [i for i in ids if not times[i]]
    if missing:
        problems.append(f"no score for {', '.join(map(repr, missing))}")
    return _refused(*problems) if problems else ParsedReply(scores=scores, problems=())


def _wrong_values(entry: _Object, attempt: str) -> list[str]:
    problems = []
    explanation = entry.get("explanation")
    if not isinstance(explanation, str):
        actual = "missing" if "explanation" not in entry else _short(explanation)
        problems.append(f"the explanation of {attempt!r} is {actual}; expected text")
    score = entry.get("score")
    if "score" not in entry:
        problems.append(f"the score of {attempt!r} is missing")
    elif isinstance(score, bool) or not isinstance(score, int | float):
        problems.append(f"the score of {attempt!r} is {_short(score)}; expected a number from 0 to 1")
    elif isinstance(score, float) and not math.isfinite(score):
        problems.append(f"the score of {attempt!r} is {score}, which is not finite; expected a number from 0 to 1")
    elif not 0 <= score <= 1:
        problems.append(f"the score of {attempt!r} is {_short(score)}, outside 0 to 1")
    return problems


def _repeated(value: _Object, where: str) -> list[str]:
    return [f"{where} has the key {_short(key)} more than once" for key in value.repeated]


def _refused(*problems: str) -> ParsedReply:
    more = len(problems) - _MAX_LISTED
    listed = problems if more <= 0 else (*problems[:_MAX_LISTED], f"and {more} more problems")
    return ParsedReply(scores={}, problems=tuple(listed))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
