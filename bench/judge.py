"""How reliably a judge's scores become rewards: naive scoring by position compared with `woodshed.Ruler`.

    python bench/judge.py [--groups 60] [--size 8] [--no-engine] [--json FILE]

1. Simulated judges, each with one known fault, score groups whose true order is known. A score is misassigned if the
   judge did not mean it for that attempt. τ is Kendall's, with the true order, over the groups that were scored.
2. Hostile replies and recorded texts (`woodshed.testing.hostile`): rewards that nobody meant.
3. The demo's tiny judge, served by the real vLLM, on attempts at held-out questions of the music shop. It understands
   only one form of request, so "naive" here is that request in one order, with scores assigned by position.

A simulated judge cannot show whether a real model is deceived by a text. It shows what happens to the scores if it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from judging.groups import KnownGroup, carrying, known_group
from judging.judges import FAULTS, Gullible, SimulatedJudge
from judging.naive import naive_scores, scores_by_place
from scipy.stats import kendalltau

from woodshed import Engine, Ruler
from woodshed.chat.model import Question
from woodshed.rewards.judge_runner import judge_client
from woodshed.rewards.mode_trial import Mode
from woodshed.rewards.prompt import PromptSettings, build_prompt, default_rubric
from woodshed.testing.hostile import hostile_replies, hostile_texts
from woodshed.types import Judgement
from woodshed_tiny_world import held_out_scenarios, judge_model

TRAIN_MODELS = Path(__file__).parents[1] / "examples/tiny_world/train_models"


@dataclass
class Line:
    """One line of the table: one judge, scored one way."""

    judge: str
    how: str
    groups: int = 0
    masked: int = 0
    flat: int = 0
    misassigned: int = 0
    tau: float = 0.0
    consistency: float | None = None
    requests: float = 0.0
    tokens: int = 0


def main() -> None:
    """Run the benchmark and print the tables."""
    # A hundred groups are masked on purpose, and each would log a warning.
    logging.getLogger("woodshed.rewards").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=60, help="groups a judge scores")
    parser.add_argument("--size", type=int, default=8, help="attempts of a group")
    parser.add_argument("--no-engine", action="store_true", help="leave the tiny real judge out")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    lines = asyncio.run(simulated(options.groups, options.size))
    show(lines)
    wrong = asyncio.run(hostile(options.size))
    print(
        f"\n{wrong['replies']} hostile replies and {wrong['texts']} hostile texts: {wrong['naive']} give a wrong "
        f"reward in naive scoring, {wrong['ours']} in ours ({wrong['masked']} masked)"
    )
    if not options.no_engine:
        print()
        lines += (real := asyncio.run(tiny_judge(options.groups, options.size)))
        show(real)
    if options.json:
        options.json.write_text(json.dumps({"lines": [asdict(line) for line in lines], "hostile": wrong}, indent=2))
    sys.exit(verdict(lines, wrong))


async def simulated(groups: int, size: int) -> list[Line]:
    """Return four lines for each fault: naive scoring, and each mode of the ruler."""
    lines = []
    for fault in FAULTS:
        known = [known_group(seed, size, hostile=fault == "injected") for seed in range(groups)]
        truth = {ref: worth for group in known for ref, worth in group.truth.items()}
        for how in ("naive", "ours", "single", "pairs"):
            judge = SimulatedJudge(fault, truth, seed=0)
            line = Line(judge=fault, how=how)
            taus, figures = [], []
            for group in known:
                judge.meant.clear()
                scores, figure = await (_naive(judge, group) if how == "naive" else _ours(judge, group, how))
                figures += [figure] if figure is not None else []
                line.groups += 1
                # A label is given to nobody else, so only lists can be misassigned.
                line.misassigned += misassigned(scores, judge) if how in ("naive", "ours") else 0
                line.flat += len(scores) > 1 and len(set(map(str, scores.values()))) == 1
                taus += agreement(scores, group)
            line.masked = line.groups - len(taus)
            line.tau = math.fsum(taus) / len(taus) if taus else math.nan
            line.consistency = math.fsum(figures) / len(figures) if figures else None
            line.requests, line.tokens = judge.requests / groups, judge.characters // 4
            lines.append(line)
    return lines


async def _naive(judge: Any, group: KnownGroup) -> tuple[dict[str, Any], float | None]:
    scores = await naive_scores(judge, group.trajectories)
    return dict(zip(group.truth, scores or (), strict=False)), None


async def _ours(judge: Any, group: KnownGroup, how: str = "ours") -> tuple[dict[str, Any], float | None]:
    mode: Mode = "single" if how == "single" else "pairs" if how == "pairs" else "group"
    judgement = await Ruler(judge, mode=mode, permutations=1 if how == "single" else 2).judge_group(group.trajectories)
    return {s.rollout_id: s.value for s in judgement.scores}, judgement.consistency


def misassigned(scores: dict[str, Any], judge: SimulatedJudge) -> int:
    """Count attempts that got another score than the judge meant for them, on average over what it was asked."""
    wrong = 0
    for ref, score in scores.items():
        meant = [m[ref] for m in judge.meant if ref in m]
        low, high = (min(meant), max(meant)) if meant else (math.nan, math.nan)
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        wrong += not (is_number and low - 1e-9 <= score <= high + 1e-9)
    return wrong


def agreement(scores: dict[str, Any], group: KnownGroup) -> list[float]:
    """Return τ with the truth over the attempts that have a usable number; nothing where no two have."""
    pairs = [(s, group.truth[r]) for r, s in scores.items() if isinstance(s, int | float) and math.isfinite(s)]
    if len(pairs) < 2:
        return []
    tau = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return [0.0 if math.isnan(tau) else tau]


async def hostile(size: int) -> dict[str, int]:
    """Return how many hostile replies and texts give a reward that the judge did not mean."""
    counts = {"replies": 0, "texts": 0, "naive": 0, "ours": 0, "masked": 0}
    for seed in range(3):
        group = known_group(seed, size)
        for number in range(len(hostile_replies({"A": 1.0, "B": 0.0}, 0))):
            counts["replies"] += 1
            await _count(counts, group, lambda: _hostile(group, seed, number))  # noqa: B023
    for number, text in enumerate(hostile_texts("abcd", "A")):
        for seed in range(4):
            group = carrying(known_group(1000 * seed + number, size), text.text)
            counts["texts"] += 1
            await _count(counts, group, lambda: Gullible(group.truth))  # noqa: B023
    return counts


async def _count(counts: dict[str, int], group: KnownGroup, judge: Callable[[], Any]) -> None:
    naive, _ = await _naive(judge(), group)
    ours, _ = await _ours(judge(), group)
    counts["naive"] += bool(naive) and naive != group.truth
    counts["ours"] += bool(ours) and ours != group.truth
    counts["masked"] += not ours


def _hostile(group: KnownGroup, seed: int, number: int) -> Any:
    """Return a judge that means the truth and says it in a hostile reply."""
    reader = Gullible(group.truth)

    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        meant = {e["id"]: e["score"] for e in json.loads(await reader(system, user, schema))["scores"]}
        return hostile_replies(meant, seed)[number].text

    return judge


async def tiny_judge(groups: int, size: int) -> list[Line]:
    """Return three lines of the demo's judge on the real vLLM: by place, in one order, in two."""
    known = shop_groups(groups, size)
    async with Engine.local(models={"judge": judge_model()}).running([], home=Path("runs/bench-judge")) as engine:
        bind = {"base_url": engine.openai_base_url, "api_key": engine.api_key}
        lines = [await _tiny_naive(Ruler("engine/judge").bound(**bind), known)]
        for orders in (1, 2):
            lines.append(await _tiny_ours(Ruler("engine/judge", permutations=orders).bound(**bind), known))
    return lines


async def _tiny_naive(ruler: Ruler, known: Sequence[KnownGroup]) -> Line:
    line, taus = Line(judge="tiny, real vLLM", how="by position"), []
    client, _ = judge_client(ruler.judge)  # type: ignore[arg-type]
    for number, group in enumerate(known):
        settings = PromptSettings(rubric=default_rubric())
        prompt = build_prompt(group.trajectories, order=range(len(group.truth)), settings=settings, salt=str(number))
        answer = await client.ask(Question(system=prompt.system, user=prompt.user, schema=prompt.schema))
        scores = dict(zip(group.truth, scores_by_place(answer.text) or (), strict=False))
        taus += agreement(scores, group)
        line.requests += 1 / len(known)
        line.tokens += answer.prompt_tokens + answer.completion_tokens
    line.groups, line.masked = len(known), len(known) - len(taus)
    line.tau = math.fsum(taus) / len(taus)
    return line


async def _tiny_ours(ruler: Ruler, known: Sequence[KnownGroup]) -> Line:
    line = Line(judge="tiny, real vLLM", how=f"ours, {ruler.permutations} order{'s' * (ruler.permutations > 1)}")
    judgements: list[Judgement] = [await ruler.judge_group(group.trajectories) for group in known]
    taus = [
        t
        for j, g in zip(judgements, known, strict=True)
        for t in agreement({s.rollout_id: s.value for s in j.scores}, g)
    ]
    figures = [j.consistency for j in judgements if j.consistency is not None]
    line.groups, line.masked = len(known), sum(j.error is not None for j in judgements)
    line.tau = math.fsum(taus) / len(taus)
    line.consistency = math.fsum(figures) / len(figures) if figures else None
    line.requests = sum(j.requests for j in judgements) / len(known)
    line.tokens = sum(j.prompt_tokens + j.completion_tokens for j in judgements)
    return line


def shop_groups(count: int, size: int) -> list[KnownGroup]:
    """Return attempts at held-out questions of the demo's world, made up as the judge's lessons were."""
    sys.path.insert(0, str(TRAIN_MODELS))
    from attempts import level_of, trajectory, translated
    from dialects import DIALECTS
    from mistakes import KINDS

    from woodshed_tiny_world import Level, Shop

    draw, order = random.Random(17), list(Level)
    groups = []
    while len(groups) < count:
        scenario, shop = draw.choice(held_out_scenarios()), Shop(draw.randrange(1 << 20))
        made = [k(scenario, shop, draw) for k in draw.choices(list(KINDS), list(KINDS.values()), k=size)]
        truth = [order.index(level_of(scenario, a, shop)) / (len(order) - 1) for a in made]
        if len(set(truth)) < 2:
            continue
        translated_attempts = [translated(a, DIALECTS[0], shop) for a in made]
        members = tuple(trajectory(scenario, a, f"{len(groups)}-{n}") for n, a in enumerate(translated_attempts))
        groups.append(
            KnownGroup(trajectories=members, truth={t.rollout_id: w for t, w in zip(members, truth, strict=True)})
        )
    return groups


def show(lines: Sequence[Line]) -> None:
    """Print the lines as a table."""
    form = "{:16} {:14} {:>6} {:>6} {:>5} {:>11} {:>6} {:>10} {:>8} {:>8}"
    print(
        form.format(
            "judge", "scored", "groups", "masked", "flat", "misassigned", "τ", "consistent", "requests", "tokens"
        )
    )
    for line in lines:
        consistent = "-" if line.consistency is None else f"{line.consistency:.2f}"
        row = (
            line.judge,
            line.how,
            line.groups,
            line.masked,
            line.flat,
            line.misassigned,
            f"{line.tau:.2f}",
            consistent,
        )
        print(form.format(*row, f"{line.requests:.2f}", line.tokens))


def verdict(lines: Sequence[Line], wrong: dict[str, int]) -> int:
    """Say whether the promises hold; 1 where one does not."""
    by = {(line.judge, line.how): line for line in lines}
    gain = by["position", "ours"].tau - by["position", "naive"].tau
    lost = sum(line.misassigned for line in lines if line.how == "ours")
    print(f"\nunder position bias ours has τ {gain:+.2f} over naive (promised: +0.15 or more)")
    print(f"misassigned by ours: {lost}; wrong rewards from hostile replies: {wrong['ours']} (promised: 0 and 0)")
    return int(gain < 0.15 or lost > 0 or wrong["ours"] > 0)


if __name__ == "__main__":
    began = time.perf_counter()
    try:
        main()
    finally:
        print(f"{time.perf_counter() - began:.0f} s")
