"""What `woodshed judge-check` does: groups whose order is known → trials → a table, or JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.rewards.calibration import SuccessRate, success_rate
from woodshed.rewards.gold import read_gold
from woodshed.rewards.judge import Judge
from woodshed.rewards.known_groups import KnownGroup, known_groups
from woodshed.rewards.mode_trial import Mode, ModeTrial, chosen, table_lines
from woodshed.rewards.ruler import Ruler

_SUCCESS = 0.5


def examine(judge: Judge, *, rubric: str | None, gold: Path | None, max_cost_usd: float | None, as_json: bool) -> None:
    """Try the judge in every mode, print the table, and name the best mode.

    Raises:
        CheckError: the judge is no better than a coin; the table is printed before.
        ConfigError: the gold file, the key or the price is missing or not usable.
        CostCeilingError: the next request would exceed `max_cost_usd`.
    """
    groups = known_groups() if gold is None else read_gold(gold)
    ruler = Ruler(judge, rubric=_rubric(rubric), max_cost_usd=max_cost_usd)
    judge.key()
    console = Console(stderr=as_json, soft_wrap=True, highlight=False, markup=False)
    trials, rate = asyncio.run(_tried(ruler, groups, console, has_rate=gold is not None))
    if as_json:
        print(json.dumps(_json(judge.model, trials, rate), indent=2, ensure_ascii=False))
    else:
        _print(console, trials, rate)
    table = chosen(judge.model, trials)
    if not as_json:
        console.print(f"best: Ruler({judge.model!r}, mode={table.mode!r})")


async def _tried(
    ruler: Ruler, groups: Sequence[KnownGroup], console: Console, *, has_rate: bool
) -> tuple[list[ModeTrial], SuccessRate | None]:
    with console.status("asking the judge"):
        trials = await ruler.trials(groups)
        # A win rate says which attempt is better, and nothing about success.
        absolute = [t for t in trials if t.mode != "pairs"]
        best = max(absolute, key=lambda t: t.tau).mode
        return trials, await _rate(ruler, best, groups) if has_rate else None


async def _rate(ruler: Ruler, mode: Mode, groups: Sequence[KnownGroup]) -> SuccessRate | None:
    """Return the corrected success rate of the attempts nobody has scored, or of all if there are none such."""
    judged: dict[bool | None, list[bool]] = {None: [], True: [], False: []}
    for group in groups:
        # Every verdict is in the cache already.
        for score in (await ruler.in_mode(mode).judge_group(group.trajectories)).scores:
            worth = group.worth.get(score.rollout_id)
            judged[None if worth is None else worth >= _SUCCESS].append(score.value >= _SUCCESS)
    if not judged[True] or not judged[False]:
        return None
    return success_rate(judged[None] or judged[True] + judged[False], judged[True], judged[False])


def _rubric(rubric: str | None) -> str | None:
    return Path(rubric).read_text(encoding="utf-8") if rubric and _is_file(rubric) else rubric


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is too long to be a name
        return False


def _print(console: Console, trials: Sequence[ModeTrial], rate: SuccessRate | None) -> None:
    for line in table_lines(trials):
        console.print(line)
    for trial in trials:
        if trial.error:
            console.print(f"mode {trial.mode!r}, the first group without a verdict: {trial.error}")
    if rate is None:
        return
    console.print(
        f"success (a score of {_SUCCESS} or more): the judge says {rate.judged:.2f}; it recognises "
        f"{rate.sensitivity:.2f} of the successes and {rate.specificity:.2f} of the failures"
    )
    if rate.corrected is None or rate.interval is None:
        console.print("corrected: not known, as the judge tells success from failure no better than a coin")
    else:
        low, high = rate.interval
        console.print(f"corrected: {rate.corrected:.2f} (95 %: {low:.2f} to {high:.2f})")


def _json(judge: str, trials: Sequence[ModeTrial], rate: SuccessRate | None) -> dict[str, Any]:
    modes = [t.model_dump(mode="json") for t in trials]
    return {"judge": judge, "modes": modes, "success": None if rate is None else asdict(rate)}
