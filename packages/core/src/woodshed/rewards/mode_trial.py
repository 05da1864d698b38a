"""Try a judge in every mode on attempts whose order is known, and choose the mode to use."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Literal

from woodshed.errors import CheckError
from woodshed.rewards.base import Reward
from woodshed.rewards.calibration import bootstrap_interval
from woodshed.rewards.known_groups import KnownGroup
from woodshed.types import Judgement, Record

Mode = Literal["group", "pairs", "single", "auto"]
CONCRETE_MODES: tuple[Mode, ...] = ("group", "single", "pairs")
"""All but `auto`, from the fewest requests to the most."""

COIN_TAU = 0.35
"""Lowest τ of a usable judge. By chance, the best of three modes on ten groups of four exceeds it once in 30 times."""
_AS_GOOD = 0.05
"""Modes this close to the best τ are as good, and the one with the fewest requests is taken."""


class ModeTrial(Record):
    """How a judge did in one mode."""

    mode: Mode
    groups: int
    masked: int
    """Groups without a usable verdict."""
    flat: int
    """Groups in which all attempts got the same score, though they differ."""
    tau: float
    """Mean of Kendall's τ with the true order, -1 to 1. A tie counts 0, and so does a masked group."""
    tau_interval: tuple[float, float]
    """95 % interval of `tau`, by drawing the groups again with replacement."""
    position_bias: float | None
    """Share of attempt pairs whose order changes with the order of showing, 0 to 1; None where attempts are shown
    alone."""
    requests: float
    """Per group, as are the next three."""
    tokens: float
    cost_usd: float | None
    seconds: float
    error: str = ""
    """Why the first masked group has no verdict."""


class ModeTable(Record):
    """How a judge did in each mode, and which one is used."""

    judge: str
    mode: Mode
    trials: tuple[ModeTrial, ...]


async def try_mode(
    mode: Mode, reward: Reward, groups: Sequence[KnownGroup], *, both_orders: Reward | None = None
) -> ModeTrial:
    """Judge all groups in one mode.

    Args:
        mode: the mode that `reward` is in.
        reward: scores the groups.
        groups: attempts whose order is known; those of equal worth alone tell nothing of the order.
        both_orders: a reward that shows each attempt in two orders, if `reward` does not; it tells the position bias.
    """
    clock = time.perf_counter()
    judgements = await asyncio.gather(*(reward.judge_group(g.trajectories) for g in groups))
    seconds = time.perf_counter() - clock
    ordered = judgements
    if both_orders is not None:
        ordered = await asyncio.gather(*(both_orders.judge_group(g.trajectories) for g in groups))
    kept = [j.consistency for j in ordered if j.consistency is not None]
    costs = [j.cost_usd for j in judgements if j.cost_usd is not None]
    usable = [j for j in judgements if j.error is None]
    count = len(groups)
    taus = [agreement(j, g.worth) for j, g in zip(judgements, groups, strict=True) if len(set(g.worth.values())) > 1]
    return ModeTrial(
        mode=mode,
        groups=count,
        masked=count - len(usable),
        flat=sum(len({s.value for s in j.scores}) == 1 for j in usable),
        tau=statistics.fmean(taus),
        tau_interval=bootstrap_interval(taus),
        position_bias=1 - statistics.fmean(kept) if kept and mode != "single" else None,
        requests=sum(j.requests for j in judgements) / count,
        tokens=sum(j.prompt_tokens + j.completion_tokens for j in judgements) / count,
        cost_usd=math.fsum(costs) / count if len(costs) == count else None,
        seconds=seconds / count,
        error=next((j.error.message for j in judgements if j.error is not None), ""),
    )


def agreement(judgement: Judgement, worth: Mapping[str, float]) -> float:
    """Return Kendall's τ-a of the scores with the truth: of all pairs, the share in order minus that in reverse.

    A tie in the scores counts 0, and so does a pair without both scores. Pairs of equal worth are left out.
    """
    scores = {s.rollout_id: s.value for s in judgement.scores}
    pairs = [(a, b) for a, b in combinations(worth, 2) if worth[a] != worth[b]]
    signs = [_sign(worth[a] - worth[b]) * _sign(scores[a] - scores[b]) for a, b in pairs if a in scores and b in scores]
    return math.fsum(signs) / len(pairs) if pairs else 0.0


def chosen(judge: str, trials: Sequence[ModeTrial]) -> ModeTable:
    """Return the table with the best mode; among modes that are as good, the one with the fewest requests.

    Raises:
        CheckError: the judge gave no verdict in any mode, or is no better than a coin in each.
    """
    if all(t.masked == t.groups for t in trials):
        raise CheckError(
            f"judge {judge!r} gave no usable verdict in any mode; the first error: {trials[0].error}. "
            "Check its name, address and key, or name another one: Ruler(judge=...)"
        )
    best = max(t.tau for t in trials)
    if best < COIN_TAU:
        found = ", ".join(f"{t.tau:.2f} in mode {t.mode!r}" for t in trials)
        raise CheckError(
            f"judge {judge!r} is no better than a coin on {trials[0].groups} groups whose order is beyond doubt: its "
            f"Kendall's τ is {found}; expected at least {COIN_TAU}. A run learns only from its ranking: name a "
            "stronger judge, Ruler(judge=...); `woodshed judge-check` prints the table"
        )
    # Not by the requests measured: with a warm cache there are none, and the choice must not change.
    as_good = [t for t in trials if t.tau >= best - _AS_GOOD]
    return ModeTable(
        judge=judge, mode=min(as_good, key=lambda t: CONCRETE_MODES.index(t.mode)).mode, trials=tuple(trials)
    )


def table_lines(table: Sequence[ModeTrial], mode: Mode | None = None) -> list[str]:
    """Return the trials as lines of text; the chosen mode is marked."""
    form = "{:1} {:7} {:>7} {:>5} {:>8} {:>6} {:>13} {:>8} {:>7} {:>9} {:>7}"
    titles = ("", "mode", "replies", "flat", "position", "τ", "95 %", "requests", "tokens", "USD", "seconds")
    lines = [form.format(*titles)]
    for t in table:
        bias = "-" if t.position_bias is None else f"{t.position_bias:.2f}"
        cost = "-" if t.cost_usd is None else f"{t.cost_usd:.5f}"
        valid = f"{t.groups - t.masked}/{t.groups}"
        low, high = t.tau_interval
        row = (valid, t.flat, bias, f"{t.tau:.2f}", f"{low:.2f} to {high:.2f}", f"{t.requests:.1f}", f"{t.tokens:.0f}")
        lines.append(form.format("*" if t.mode == mode else "", t.mode, *row, cost, f"{t.seconds:.2f}"))
    return lines


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
