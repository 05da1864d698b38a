"""Reply of a judge → one mark an attempt, by id; or every rule of the answer that it breaks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.rewards.partial_scores import Parts, read_parts

_MAX_CHARACTERS = 1_000_000
_MAX_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptScore:
    """What the judge says of one attempt."""

    score: float
    explanation: str
    agents: Mapping[str, float] = field(default_factory=dict)
    """Agent → its own score, where the judge was asked for it."""
    steps: tuple[float, ...] = ()
    """A score a step, where the judge was asked for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A judge's reply, read: either a mark for every id, or the problems that forbid to use it."""

    marks: dict[str, AttemptScore]
    problems: tuple[str, ...]


def read_verdict(reply: str, ids: Sequence[str], parts: Mapping[str, Parts] | None = None) -> Reading:
    """Return a mark for each of `ids`, or all problems of the reply; never one by its place.

    `parts` says what of each attempt must have a score of its own.

    The JSON may stand in prose or in a Markdown fence. A reply that holds two different verdicts has none: one of them
    may have been quoted from an attempt.
    """
    if len(reply) > _MAX_CHARACTERS:
        return _refused(f"the reply has {len(reply)} characters, more than {_MAX_CHARACTERS}")
    try:
        return _find(reply.rpartition("</think>")[2].strip(), ids, parts or {})
    except RecursionError:
        return _refused("the JSON is nested too deeply to be read")


def _find(text: str, ids: Sequence[str], parts: Mapping[str, Parts]) -> Reading:
    found = list(_verdicts(text))
    if not found:
        return _refused(_no_verdict(text))
    if any(repr(other) != repr(found[0]) for other in found[1:]):
        return _refused(f"the reply holds {len(found)} different JSON objects with 'scores'; expected one")
    return _read(found[0], ids, parts)


class _Object(dict[str, Any]):
    """A JSON object that remembers keys written twice; a plain dict keeps only the last value."""

    repeated: tuple[str, ...] = ()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> _Object:
        made = cls(pairs)
        made.repeated = tuple(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
        return made

    def __repr__(self) -> str:
        return f"{super().__repr__()}{self.repeated or ''}"


_DECODER = json.JSONDecoder(object_pairs_hook=_Object.of)


def _verdicts(text: str) -> Iterator[_Object]:
    """Yield every outermost JSON object of `text` that has `scores`."""
    place = text.find("{")
    while place >= 0:
        try:
            value, end = _DECODER.raw_decode(text, place)
        except ValueError:
            end = place + 1
        else:
            if isinstance(value, _Object) and "scores" in value:
                yield value
        place = text.find("{", end)


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


def _read(verdict: _Object, ids: Sequence[str], parts: Mapping[str, Parts]) -> Reading:
    problems = _repeated(verdict, "the object")
    entries = verdict["scores"]
    if not isinstance(entries, list):
        return _refused(*problems, f"'scores' is {_short(entries)}; expected a list with one entry an attempt")
    marks: dict[str, AttemptScore] = {}
    named: Counter[str] = Counter()
    for number, entry in enumerate(entries, 1):
        attempt = entry.get("id") if isinstance(entry, _Object) else None
        if not isinstance(entry, _Object) or not isinstance(attempt, str):
            problems.append(
                f"entry {number} is {_short(entry)}; expected an object with 'id', 'explanation' and 'score'"
            )
            continue
        named[attempt] += 1
        if attempt not in ids:
            problems.append(f"entry {number} scores attempt {_short(attempt)}, which does not exist")
            continue
        finer, wrong_parts = read_parts(entry, attempt, parts.get(attempt, Parts()))
        wrong = _repeated(entry, f"the entry of {attempt!r}") + _wrong_values(entry, attempt) + wrong_parts
        problems += wrong
        if not wrong:
            marks[attempt] = AttemptScore(
                score=float(entry["score"]),
                explanation=entry["explanation"].strip(),
                agents=finer.agents,
                steps=finer.steps,
            )
    problems += [f"attempt {i!r} is scored {named[i]} times; expected once" for i in ids if named[i] > 1]
    missing = [i for i in ids if not named[i]]
    if missing:
        problems.append(f"no score for {', '.join(map(repr, missing))}")
    return _refused(*problems) if problems else Reading(marks=marks, problems=())


def _wrong_values(entry: _Object, attempt: str) -> list[str]:
    wrong = []
    explanation = entry.get("explanation")
    if not isinstance(explanation, str):
        said = "missing" if "explanation" not in entry else _short(explanation)
        wrong.append(f"the explanation of {attempt!r} is {said}; expected text")
    score = entry.get("score")
    if "score" not in entry:
        wrong.append(f"the score of {attempt!r} is missing")
    elif isinstance(score, bool) or not isinstance(score, int | float):
        wrong.append(f"the score of {attempt!r} is {_short(score)}; expected a number from 0 to 1")
    elif isinstance(score, float) and not math.isfinite(score):
        wrong.append(f"the score of {attempt!r} is {score}, which is not finite; expected a number from 0 to 1")
    elif not 0 <= score <= 1:
        wrong.append(f"the score of {attempt!r} is {_short(score)}, outside 0 to 1")
    return wrong


def _repeated(value: _Object, where: str) -> list[str]:
    return [f"{where} has the key {_short(key)} more than once" for key in value.repeated]


def _refused(*problems: str) -> Reading:
    more = len(problems) - _MAX_LISTED
    listed = problems if more <= 0 else (*problems[:_MAX_LISTED], f"and {more} more problems")
    return Reading(marks={}, problems=tuple(listed))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
