"""The orders agent trained three times from one seed: by the judge alone, by the true reward, by shuffled scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from agent import take_order
from demo import is_right, rightness
from orders import held_out, practice

import woodshed
from woodshed.rewards.base import Reward
from woodshed.training.report.interval import Interval, success_text
from woodshed_tiny_world.demo import ShuffledReward
from woodshed_tiny_world.pretrained import fetch

_GROUP_SIZE, _GROUPS = 6, 4


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Held-out success of one training, before and after, with 95 % intervals."""

    reward: str
    before: float
    before_interval: Interval | None
    after: float
    after_interval: Interval | None
    mode: str
    seconds: float


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
            optimizer=woodshed.OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
        ),
        run_dir=folder / name.replace(" ", "-"),
        fresh=True,
    ).run()  # fmt: skip
    found = run.summary
    assert found.success_before is not None and found.success_after is not None
    return Trained(
        reward=name,
        before=found.success_before,
        before_interval=found.interval_before,
        after=found.success_after,
        after_interval=found.interval_after,
        mode=found.judge_modes[0].mode if found.judge_modes else getattr(reward, "mode", "-"),
        seconds=time.perf_counter() - clock,
    )


def share_of_gain(runs: list[Trained]) -> float:
    """Return the judge's gain as a share of the true reward's; each counts from the mean of all starts."""
    before, after = sum(r.before for r in runs) / len(runs), {r.reward: r.after for r in runs}
    gain = after["true reward"] - before
    return (after["judge"] - before) / gain if gain > 0 else float("nan")


def show(runs: list[Trained]) -> None:
    """Print the trainings as a table."""
    form = "{:12} {:7} {:>22} {:>22} {:>8}"
    print(form.format("reward", "mode", "before", "after", "seconds"))
    for r in runs:
        ends = success_text(r.before, r.before_interval), success_text(r.after, r.after_interval)
        print(form.format(r.reward, r.mode, *ends, f"{r.seconds:.0f}"))
