"""Watch a pretrained model become a tool agent, on this machine: a chat template, a few scripted talks, then practice.

    python examples/shop_real/demo.py --framework langgraph|crewai|adk --seed 0

The policy is SmolLM2-135M-Instruct, which nobody here trained and whose own chat template knows no tools. The agent is
the clerk of the tiny world's music shop, in the framework that you choose; rules give the reward.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from talks import write_talks

import woodshed
from woodshed_tiny_world import Scenario, held_out_scenarios, train_scenarios, verify
from woodshed_tiny_world.agents import CLERKS, rollout_of
from woodshed_tiny_world.pretrained import fetch
from woodshed_tiny_world.verifier import Level

TALKS = 60
_LEVELS = list(Level)


def policy(adapter: str | None = None) -> woodshed.Policy:
    """Return the model, with a chat template that shows it tools; it starts from `adapter`."""
    template = Path(__file__).with_name("template.jinja")
    return woodshed.Policy(str(fetch()), adapter=adapter, chat_template=str(template), max_model_len=512)


def training(*, framework: str, seed: int, steps: int, adapter: str | None, run_dir: Path) -> woodshed.Training:
    """Return the training in the shop's own tools."""
    return woodshed.Training(
        rollout=rollout_of(framework),
        scenarios=train_scenarios(),
        policy=policy(adapter),
        reward=woodshed.FunctionReward(how_far),
        engine=woodshed.Engine.local(),
        evaluation=woodshed.Evaluation(scenarios=held_out_scenarios(), measure=is_right),
        config=woodshed.TrainConfig(
            steps=steps, group_size=8, scenarios_per_step=4, extra_scenarios=4, seed=seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=5e-4, warmup_steps=2),
        ),
        run_dir=run_dir,
    )  # fmt: skip


def how_far(trajectory: woodshed.Trajectory, scenario: Scenario) -> float:
    """The reward: how far the attempt came, from no call that a tool could answer (0) to the right answer (1)."""
    return _LEVELS.index(verify(trajectory, scenario).level) / (len(_LEVELS) - 1)


def is_right(trajectory: woodshed.Trajectory, scenario: Scenario) -> bool:
    """Success in the examination: it was looked up, and the answer is true."""
    return verify(trajectory, scenario).success == 1.0


def main() -> None:
    """Measure the model as it is, warm it up, let it practise, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", choices=list(CLERKS), default="langgraph", help="what the clerk is written in")
    parser.add_argument("--seed", type=int, default=0, help="seed of the talks and of the run")
    parser.add_argument("--steps", type=int, default=14, help="optimizer steps after the warm-up (14)")
    parser.add_argument("--run-dir", type=Path, default=None, help="folder (runs/shop-real-FRAMEWORK-SEED)")
    given = parser.parse_args()
    folder = given.run_dir or Path("runs") / f"shop-real-{given.framework}-{given.seed}"
    shared = {"framework": given.framework, "seed": given.seed}

    untaught = training(**shared, steps=1, adapter=None, run_dir=folder / "untaught").run()
    talks = write_talks(rollout_of(given.framework), folder / "talks.jsonl", count=TALKS, seed=given.seed)
    warm = woodshed.sft(
        talks, policy=policy(), run_dir=folder / "sft", epochs=3, batch_size=10, seed=given.seed,
        optimizer=woodshed.OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
    )  # fmt: skip
    run = training(**shared, steps=given.steps, adapter=warm.adapter, run_dir=folder / "practice").run()
    figures = {
        **shared,
        "talks": TALKS,
        "success": {
            "of the model as it is": untaught.summary.success_before,
            "after the talks": run.summary.success_before,
            "after practice": run.summary.success_after,
        },
        "questions": len(held_out_scenarios()),
        "seconds": untaught.summary.seconds + warm.summary.seconds + run.summary.seconds,
        "peak_rss_mb": run.summary.peak_rss_mb,
    }
    (folder / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
