"""The orders agent trained three times from one seed: by the judge alone, by the true reward, by shuffled scores."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from agent import take_order
from demo import is_right, rightness
from orders import held_out, practice

import woodshed
from woodshed.rewards.base import Reward
from woodshed.training.report.summary import Summary
from woodshed_tiny_world.demo import ShuffledReward
from woodshed_tiny_world.pretrained import fetch

_GROUP_SIZE, _GROUPS = 6, 4


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One training, and its figures."""

    reward: str
    mode: str
    seconds: float
    """With the start of its engine."""
    summary: Summary


def policy() -> woodshed.Policy:
    """Return the untrained policy; its weights are downloaded at the first call."""
    return woodshed.Policy(str(fetch()), max_model_len=512, max_tokens=64, tool_call_parser=None)


def trainings(
    judge: woodshed.Ruler, served: woodshed.ServedModel, *, steps: int, seed: int, exam: int, folder: Path
) -> list[Trained]:
    """Train by each reward, from the same weights and seed, on the same messages."""
    true = woodshed.FunctionReward(rightness)
    rewards: dict[str, Reward] = {"judge": judge, "true reward": true, "shuffled": ShuffledReward(true, seed)}
    return [
        _trained(name, reward, served, steps=steps, seed=seed, exam=exam, folder=folder)
        for name, reward in rewards.items()
    ]


def _trained(
    name: str, reward: Reward, served: woodshed.ServedModel, *, steps: int, seed: int, exam: int, folder: Path
) -> Trained:
    clock = time.perf_counter()
    run = woodshed.Training(
        rollout=take_order,
        scenarios=practice(),
        policy=policy(),
        reward=reward,
        engine=woodshed.Engine.local(models={"judge": served} if reward.asks_engine else {}),
        evaluation=woodshed.Evaluation(scenarios=held_out(exam), measure=is_right),
        config=woodshed.TrainConfig(
            steps=steps, group_size=_GROUP_SIZE, scenarios_per_step=_GROUPS, seed=seed,
            optimizer=woodshed.OptimizerSettings(learning_rate=5e-4, warmup_steps=2),
        ),
        run_dir=folder / name.replace(" ", "-"),
        fresh=True,
    ).run()  # fmt: skip
    modes = run.summary.judge_modes
    mode = modes[0].mode if modes else getattr(reward, "mode", "-")
    return Trained(reward=name, mode=mode, seconds=time.perf_counter() - clock, summary=run.summary)


def share_of_gain(runs: list[Trained]) -> float:
    """Return the judge's gain as a share of the true reward's; each counts from the mean of all starts."""
    before = statistics.fmean(r.summary.success_before or 0.0 for r in runs)
    after = {r.reward: r.summary.success_after or 0.0 for r in runs}
    gain = after["true reward"] - before
    return (after["judge"] - before) / gain if gain > 0 else float("nan")


def show(runs: list[Trained]) -> None:
    """Print a line for each training."""
    for r in runs:
        print(f"{r.reward:12} mode {r.mode:7} {r.summary.held_out()} in {r.seconds:.0f} s")
