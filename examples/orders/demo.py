"""Watch a pretrained model learn to take orders, on this machine, by rules that say how right an answer is.

    python examples/orders/demo.py --seed 0 [--control]

The policy is SmolLM2-135M-Instruct, which nobody here trained; the agent is a LangGraph graph; rules give the reward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agent import answer_of, take_order
from orders import Message, held_out, practice, right_share

import woodshed
from woodshed.training.report.summary import Summary
from woodshed_tiny_world.demo import ShuffledReward
from woodshed_tiny_world.pretrained import fetch


def training(*, seed: int, steps: int, run_dir: Path, control: bool = False) -> woodshed.Training:
    """Return the training; with `control`, the same on rewards that are dealt out at random within their group."""
    reward = woodshed.FunctionReward(rightness)
    return woodshed.Training(
        rollout=take_order,
        scenarios=practice(),
        policy=woodshed.Policy(str(fetch()), max_model_len=512, max_tokens=64, tool_call_parser=None),
        reward=ShuffledReward(reward, seed) if control else reward,
        engine=woodshed.Engine.local(),
        evaluation=woodshed.Evaluation(scenarios=held_out(), measure=is_right, every=8),
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
    trained = training(seed=given.seed, steps=given.steps, run_dir=folder).run()
    lines = [_line("trained by the rules", trained.summary)]
    if given.control:
        print("control: the same training on shuffled rewards", flush=True)
        control = training(seed=given.seed, steps=given.steps, run_dir=folder / "control", control=True).run()
        lines.append(_line("on shuffled rewards", control.summary))
    print(f"whole orders right, of {len(held_out())} held-out messages, with 95 % intervals:", *lines, sep="\n  ")
    print(f"figures and plot: {trained.folder}")


def _line(name: str, summary: Summary) -> str:
    return f"{name}: {summary.held_out()}; {summary.seconds:.0f} s, {summary.peak_rss_mb / 1000:.1f} GB of memory"


if __name__ == "__main__":
    main()
