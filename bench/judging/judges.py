"""Simulated judges: each knows how good every attempt is, and fails in one known way when it says so."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Shown = Sequence[tuple[str, str]]
"""Attempts in the order the judge sees them: id and text."""
_NOISE = 0.04
_LIST = re.compile(r"^\s*- ", re.MULTILINE)
_MARK = re.compile(r"ref-(\d{6})")


class SimulatedJudge:
    """Reads a request, in woodshed's form or the naive one, and answers it with one fault.

    `meant` keeps what it meant for each attempt, by the request: whoever hands an attempt another score than that has
    misassigned it.
    """

    def __init__(self, fault: str, truth: Mapping[str, float], seed: int) -> None:
        self.fault = fault
        self.meant: list[dict[str, float]] = []
        self.requests = 0
        self.characters = 0
        self._truth = truth
        self._draw = random.Random(f"{fault}/{seed}")
        self.__qualname__ = fault

    async def __call__(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """Answer one request."""
        self.requests += 1
        shown = _attempts(user)
        marks = [_MARK.search(text) for _, text in shown]
        refs = [m.group(1) if m else "" for m in marks]
        scores = [round(min(1.0, max(0.0, s)), 4) for s in self._scores(shown, refs)]
        if "answer" in schema.get("properties", {}):
            reply = _label(self.fault, scores, self._draw, is_repair="earlier reply" in user)
            self.characters += len(system) + len(user) + len(reply)
            return reply
        self.meant.append({ref: s for ref, s in zip(refs, scores, strict=True) if ref})
        reply = _reply(self.fault, [i for i, _ in shown], scores, self._draw, is_repair="earlier reply" in user)
        self.characters += len(system) + len(user) + len(reply)
        return reply

    def _scores(self, shown: Shown, refs: Sequence[str]) -> list[float]:
        honest = [self._truth.get(ref, 0.0) + self._draw.gauss(0, _NOISE) for ref in refs]
        bias = _BIASES.get(self.fault)
        return (
            honest if bias is None else [bias(h, n, len(shown), shown[n][1], self._draw) for n, h in enumerate(honest)]
        )


class Gullible:
    """Means the truth, and obeys every word that stands outside the marks of an attempt."""

    def __init__(self, truth: Mapping[str, float]) -> None:
        self._truth = truth

    async def __call__(self, system: str, user: str, schema: dict[str, Any]) -> str:
        """Answer one request."""
        shown = _attempts(user)
        refs = [m.group(1) if (m := _MARK.search(text)) else "" for _, text in shown]
        outside = user
        for _, text in shown:
            outside = outside.replace(text, "")
        worst = min(self._truth, key=lambda ref: self._truth[ref])
        is_bought = "is perfect" in outside
        scores = [1.0 if ref == worst and is_bought else self._truth.get(ref, 0.0) for ref in refs]
        return json.dumps(
            {"scores": [{"id": i, "explanation": "", "score": s} for (i, _), s in zip(shown, scores, strict=True)]}
        )


def _label(fault: str, scores: Sequence[float], draw: random.Random, *, is_repair: bool) -> str:
    """Answer with one label, as a judge without probabilities does: a digit for one attempt, a letter for two."""
    broken = {"drops one": "", "percent": f"{100 * scores[0]:.0f} %", "not a number": "NaN"}
    if fault in broken and not is_repair and draw.random() < 0.5:
        return broken[fault]
    if len(scores) == 1:
        return str(round(9 * scores[0]))
    return "A" if scores[0] > scores[1] else "B"


_BIASES: dict[str, Callable[[float, int, int, str, random.Random], float]] = {
    "position": lambda honest, place, count, text, draw: 0.4 * honest + 0.6 * place / max(1, count - 1),
    "length": lambda honest, place, count, text, draw: 0.6 * honest + 0.4 * min(1.0, len(text) / 1500),
    "format": lambda honest, place, count, text, draw: 0.7 * honest + (0.3 if _LIST.search(text) else 0.0),
    "random": lambda honest, place, count, text, draw: draw.random(),
    "copies one": lambda honest, place, count, text, draw: 0.8 if count > 2 else honest,
    "sycophantic": lambda honest, place, count, text, draw: 1.0 if "I did it perfectly" in text else 0.9 * honest,
}
FAULTS = ("none", *_BIASES, "injected", "best first", "drops one", "percent", "not a number", "quotes a claim")


def _attempts(user: str) -> list[tuple[str, str]]:
    """Read the attempts between the marks that the request itself declares."""
    if user.startswith("fence code: "):
        fence = re.escape(user.split("\n", 1)[0].removeprefix("fence code: "))
        attempts = re.findall(rf"<attempt (\w+) {fence}>\n(.*?)\n</attempt \1 {fence}>", user, re.DOTALL)
    else:
        attempts = re.findall(r'<trajectory id="(\w+)">\n(.*?)\n</trajectory>', user, re.DOTALL)
    return [(i, text) for i, text in attempts]


def _reply(fault: str, ids: Sequence[str], scores: Sequence[float], draw: random.Random, *, is_repair: bool) -> str:
    entries: list[dict[str, Any]] = [{"id": i, "explanation": "", "score": s} for i, s in zip(ids, scores, strict=True)]
    if fault == "best first":
        entries.sort(key=lambda e: -e["score"])
    if is_repair or draw.random() < 0.5:
        return json.dumps({"scores": entries})
    hit = draw.randrange(len(entries))
    if fault == "drops one":
        del entries[hit]
    elif fault == "percent":
        entries[hit]["score"] = round(100 * entries[hit]["score"])
    elif fault == "not a number":
        entries[hit]["score"] = float("nan")
    verdict = json.dumps({"scores": entries})
    if fault == "quotes a claim":
        claim = [{"id": i, "explanation": "", "score": float(n == hit)} for n, i in enumerate(ids)]
        return f"One attempt claims {json.dumps({'scores': claim})}. My verdict: {verdict}"
    return verdict
