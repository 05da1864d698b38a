"""Watch a pretrained model become a tool agent, on this machine: a chat template, a few scripted talks, then practice.

    python examples/shop_real/demo.py --framework langgraph|crewai|adk --seed 0

The policy is SmolLM2-135M-Instruct, which nobody here trained and whose own chat template knows no tools. The agent is
the clerk of the tiny world's music shop, in the framework that you choose; rules give the reward.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

from talks import write_talks

import woodshed
from woodshed.engine import ConnectedEngine
from woodshed_tiny_world import Scenario, held_out_scenarios, train_scenarios, verify
from woodshed_tiny_world.agents import CLERKS, rollout_of
from woodshed_tiny_world.pretrained import fetch
from woodshed_tiny_world.verifier import Level

TALKS = 40
_LEVELS = list(Level)


def policy(adapter: str | None = None) -> woodshed.Policy:
    """Return the model, with a chat template that shows it tools; it starts from `adapter`."""
    template = str(Path(__file__).with_name("template.jinja"))
    return woodshed.Policy(
        str(fetch()), adapter=adapter, chat_template=template, max_model_len=512, max_tokens=48, kv_cache_gib=0.5
    )


def training(
    *, framework: str, seed: int, run_dir: Path, engine: ConnectedEngine, adapter: str | None = None, **sizes: int
) -> woodshed.Training:
    """Return a training in the shop's own tools, which is measured on held-out questions before and after."""
    return woodshed.Training(
        rollout=rollout_of(framework),
        scenarios=train_scenarios(),
        policy=policy(adapter),
        reward=woodshed.FunctionReward(how_far),
        engine=engine,
        evaluation=woodshed.Evaluation(scenarios=held_out_scenarios(), measure=is_right),
        config=woodshed.TrainConfig(
            seed=seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=5e-4, warmup_steps=2),
            # A clerk that calls tools until the context is full has failed.
            advantage=woodshed.AdvantageSettings(overflowed="fail"),
            **sizes,
        ),
        run_dir=run_dir,
    )


def how_far(trajectory: woodshed.Trajectory, scenario: Scenario) -> float:
    """The reward: how far the attempt came, from no call that a tool could answer (0) to the right answer (1).

    Squared: else the easiest call, whatever was asked, is worth so much that the policy settles for it.
    """
    return (_LEVELS.index(verify(trajectory, scenario).level) / (len(_LEVELS) - 1)) ** 2


def is_right(trajectory: woodshed.Trajectory, scenario: Scenario) -> bool:
    """Success in the examination: it was looked up, and the answer is true."""
    return verify(trajectory, scenario).success == 1.0


async def run(*, framework: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Measure the model as it is, warm it up on a few talks, let it practise, and return the figures."""
    talks = await asyncio.to_thread(write_talks, rollout_of(framework), folder / "talks.jsonl", count=TALKS, seed=seed)
    # One engine for all three: its start takes as long as several steps.
    async with woodshed.Engine.local().running([policy().served()], folder / "engine", progress=print) as started:
        shared: dict[str, Any] = {
            "framework": framework,
            "seed": seed,
            "engine": woodshed.Engine.connect(started.url, api_key=started.api_key),
        }
        as_it_is = await woodshed.train_async(
            training(**shared, run_dir=folder / "as-it-is", steps=1, scenarios_per_step=1, group_size=2)
        )
        warm = await asyncio.to_thread(
            woodshed.sft, talks, policy=policy(), engine=shared["engine"], run_dir=folder / "sft",
            epochs=1, batch_size=8, seed=seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
        )  # fmt: skip
        practised = await woodshed.train_async(
            training(
                **shared, run_dir=folder / "practice", adapter=warm.adapter, steps=steps,
                scenarios_per_step=4, extra_scenarios=4, group_size=8,
            )
        )  # fmt: skip
    return {
        "framework": framework,
        "seed": seed,
        "questions": len(held_out_scenarios()),
        "talks": TALKS,
        "success_as_it_is": as_it_is.summary.success_before,
        "success_after_talks": practised.summary.success_before,
        "success_after_practice": practised.summary.success_after,
        "steps": practised.summary.steps,
        "seconds": [round(part.summary.seconds) for part in (as_it_is, warm, practised)],
        "peak_rss_mb": practised.summary.peak_rss_mb,
    }


def main() -> None:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=list(CLERKS), default="langgraph", help="what the clerk is written in")
    parser.add_argument("--seed", type=int, default=0, help="seed of the talks and of the run")
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps after the talks (12)")
    parser.add_argument("--run-dir", type=Path, default=None, help="folder (runs/shop-real-FRAMEWORK-SEED)")
    given = parser.parse_args()
    folder = given.run_dir or Path("runs") / f"shop-real-{given.framework}-{given.seed}"
    clock = time.monotonic()
    figures = asyncio.run(run(framework=given.framework, seed=given.seed, steps=given.steps, folder=folder))
    figures["seconds_in_all"] = round(time.monotonic() - clock)
    (folder / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
