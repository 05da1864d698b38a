"""Watch a pretrained model learn to take orders, on this machine, by rules that say how right an answer is.

    python examples/orders/demo.py --seed 0 [--control]

The policy is SmolLM2-135M-Instruct, which nobody here trained; the agent is a LangGraph graph; rules give the reward.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from agent import answer_of, take_order
from orders import Message, held_out, practice, right_share
from weights import fetch

import woodshed
from woodshed_tiny_world.demo import ShuffledReward


def training(*, seed: int, steps: int, run_dir: Path, control: bool = False) -> woodshed.Training:
    """Return the training; with `control`, the same on rewards that are dealt out at random within their group."""
    reward = woodshed.FunctionReward(rightness)
    return woodshed.Training(
        rollout=take_order,
        scenarios=practice(),
        policy=woodshed.Policy(str(fetch()), max_model_len=512, max_tokens=64, tool_call_parser=None),
        reward=ShuffledReward(reward, seed) if control else reward,
        engine=woodshed.Engine.local(),
        evaluation=woodshed.Evaluation(scenarios=held_out(), measure=is_right),
        config=woodshed.TrainConfig(
            steps=steps, group_size=8, scenarios_per_step=4, seed=seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=5e-4, warmup_steps=2),
        ),
        run_dir=run_dir,
    )  # fmt: skip


def rightness(trajectory: woodshed.Trajectory, message: Message) -> float:
    """The reward: how right the order is."""
    return right_share(answer_of(trajectory), message)


def is_right(trajectory: woodshed.Trajectory, message: Message) -> bool:
    """Success in the examination: the whole order is right."""
    return rightness(trajectory, message) == 1.0


def main() -> None:
    """Train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps (24)")
    parser.add_argument("--control", action="store_true", help="train a second time, on shuffled rewards")
    parser.add_argument("--run-dir", type=Path, default=None, help="folder of the run (runs/orders-SEED)")
    given = parser.parse_args()
    folder = given.run_dir or Path("runs") / f"orders-{given.seed}"
    figures = {}
    for name in ("trained", "control") if given.control else ("trained",):
        control = name == "control"
        run = training(
            seed=given.seed, steps=given.steps, run_dir=folder / "control" if control else folder, control=control
        ).run()
        figures[name] = run.summary.model_dump(mode="json")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
