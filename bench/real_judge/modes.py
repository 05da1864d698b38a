"""How well a judge ranks groups whose true rewards are known, mode by mode: a table."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from woodshed import Judgement, Ruler
from woodshed.rewards.calibration import bootstrap_interval
from woodshed.rewards.known_groups import KnownGroup
from woodshed.rewards.mode_trial import Mode, agreement


@dataclass(frozen=True, kw_only=True)
class Line:
    """How the judge did in one mode."""

    mode: Mode
    groups: int
    valid: float
    """Share of first replies that could be used."""
    masked: int
    """Groups without a verdict."""
    flat: float
    """Share of groups whose attempts differ and got one score."""
    tau: float
    tau_interval: tuple[float, float]
    best_named: float
    """Share of groups whose highest score went to an attempt that none is better than; ties count by their share."""
    seconds: float
    """Per group, with others in flight."""
    tokens: float
    """Per group, read and written."""
    written: float
    """Of these, written by the judge."""


async def line_of(ruler: Ruler, groups: Sequence[KnownGroup]) -> Line:
    """Judge all groups by one ruler."""
    clock = time.perf_counter()
    judgements = await asyncio.gather(*(ruler.judge_group(g.trajectories) for g in groups))
    seconds, count = time.perf_counter() - clock, len(groups)
    taus = [agreement(j, g.worth) for j, g in zip(judgements, groups, strict=True)]
    return Line(
        mode=ruler.mode,
        groups=count,
        valid=_valid(ruler, groups, judgements),
        masked=sum(j.error is not None for j in judgements),
        flat=sum(bool(j.scores) and len({s.value for s in j.scores}) == 1 for j in judgements) / count,
        tau=statistics.fmean(taus),
        tau_interval=bootstrap_interval(taus),
        best_named=statistics.fmean(_best_named(j, g.worth) for j, g in zip(judgements, groups, strict=True)),
        seconds=seconds / count,
        tokens=sum(j.prompt_tokens + j.completion_tokens for j in judgements) / count,
        written=sum(j.completion_tokens for j in judgements) / count,
    )


def _valid(ruler: Ruler, groups: Sequence[KnownGroup], judgements: Sequence[Judgement]) -> float:
    """Return the share of first replies that needed no second one: each unusable reply costs one more request."""
    first = [_requests(ruler.mode, len(_texts(g)), ruler.permutations) for g in groups]
    return 1 - (sum(j.requests for j in judgements) - sum(first)) / sum(first)


def _texts(group: KnownGroup) -> set[str]:
    return {t.calls[-1].tokens.completions[0].message.model_dump_json() for t in group.trajectories}


def _requests(mode: Mode, attempts: int, permutations: int) -> int:
    per_showing = {"group": 1, "single": attempts, "pairs": attempts * (attempts - 1)}[mode]
    return per_showing * (math.ceil(permutations / 2) if mode == "pairs" else permutations)


def _best_named(judgement: Judgement, worth: Mapping[str, float]) -> float:
    if not judgement.scores:
        return 0.0
    top = max(s.value for s in judgement.scores)
    named = [worth[s.rollout_id] == max(worth.values()) for s in judgement.scores if s.value == top]
    return sum(named) / len(named)


_FORM = "{:7} {:>6} {:>6} {:>7} {:>6} {:>6} {:>13} {:>5} {:>8} {:>7} {:>8}"


def show_titles() -> None:
    """Print the table's first line."""
    titles = ("mode", "groups", "valid", "masked", "flat", "τ", "95 %", "best", "seconds", "tokens", "written")
    print(_FORM.format(*titles), flush=True)


def show(line: Line) -> None:
    """Print one line of the table."""
    low, high = line.tau_interval
    row = (line.mode, line.groups, f"{line.valid:.0%}", line.masked, f"{line.flat:.0%}", f"{line.tau:.2f}")
    rest = (f"{line.best_named:.2f}", f"{line.seconds:.1f}", f"{line.tokens:.0f}", f"{line.written:.0f}")
    print(_FORM.format(*row, f"{low:.2f} to {high:.2f}", *rest), flush=True)
