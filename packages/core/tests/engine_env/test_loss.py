"""Promises of the loss: it equals a plain loop, splits exactly, and gives no gradient where nothing was trained."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from etude.loss.grpo import BatchTotals, LossOut, grpo_loss
from etude.loss.metrics import TokenStats
from etude.loss.presets import PRESETS
from etude.types import LossSettings

SETTINGS = [
    LossSettings(preset="grpo"),
    LossSettings(preset="dr_grpo", constant_length=16),
    LossSettings(preset="dapo"),
    LossSettings(preset="grpo", importance_cap=1.1),
    LossSettings(preset="dapo", clip_low=0.05, clip_high=0.4, importance_cap=1.0),
]


@dataclass
class Case:
    """Random tokens of random rollouts, in random order."""

    new: list[float]
    old: list[float]
    trained: list[bool]
    rollout_of: list[int]
    advantages: list[float]

    @property
    def tokens_of(self) -> list[int]:
        return [
            sum(t and of == r for t, of in zip(self.trained, self.rollout_of, strict=True))
            for r in range(len(self.advantages))
        ]


def case(seed: int, tokens: int = 60, rollouts: int = 5) -> Case:
    draw = random.Random(seed)
    new = [-abs(draw.gauss(0, 1.5)) for _ in range(tokens)]
    trained = [k < rollouts or draw.random() < 0.7 for k in range(tokens)]
    old = [
        n + draw.gauss(0, 0.4) if t else draw.choice([math.nan, math.inf, 0.0])
        for n, t in zip(new, trained, strict=True)
    ]
    new = [n if t or draw.random() < 0.5 else math.nan for n, t in zip(new, trained, strict=True)]
    return Case(
        new=new,
        old=old,
        trained=trained,
        rollout_of=[k if k < rollouts else draw.randrange(rollouts) for k in range(tokens)],
        advantages=[draw.gauss(0, 1) for _ in range(rollouts - 1)] + [0.0],
    )


def twin(c: Case, s: LossSettings) -> tuple[float, list[float]]:
    """Return loss and gradient by loops and `math.exp` alone."""
    preset = PRESETS[s.preset]
    low = 1 - (s.clip_low or preset.clip_low)
    high = 1 + (s.clip_high or preset.clip_high)
    loss, gradient = 0.0, []
    for new, old, trained, r in zip(c.new, c.old, c.trained, c.rollout_of, strict=True):
        if not trained:
            gradient.append(0.0)
            continue
        weight = {
            "grpo": 1 / (c.tokens_of[r] * len(c.advantages)),
            "dr_grpo": 1 / (len(c.advantages) * s.constant_length),
            "dapo": 1 / sum(c.tokens_of),
        }[s.preset]
        ratio, advantage = math.exp(new - old), c.advantages[r]
        clipped = (advantage > 0 and ratio > high) or (advantage < 0 and ratio < low)
        capped = min(ratio, s.importance_cap)
        surrogate = min(max(min(ratio, high), low), s.importance_cap) if clipped else capped
        loss -= surrogate * advantage * weight
        gradient.append(0.0 if clipped else -capped * advantage * weight)
    return loss, gradient


def ours(c: Case, s: LossSettings, part: slice | None = None) -> tuple[LossOut, Tensor]:
    """Return the loss of some of the tokens and its gradient, in fp64."""
    part = part or slice(None)
    new = torch.tensor(c.new[part], dtype=torch.double, requires_grad=True)
    out = grpo_loss(
        new,
        torch.tensor(c.old[part], dtype=torch.double),
        torch.tensor(c.trained[part]),
        torch.tensor(c.rollout_of[part]),
        torch.tensor(c.advantages, dtype=torch.double),
        torch.tensor(c.tokens_of),
        totals=BatchTotals(rollouts=len(c.advantages), tokens=sum(c.tokens_of)),
        settings=s,
    )
    (gradient,) = torch.autograd.grad(out.loss, new)
    return out, gradient


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.preset}-{s.importance_cap}")
def test_loss_and_gradient_equal_a_plain_loop(settings: LossSettings, seed: int) -> None:
    c = case(seed)
    loss, gradient = twin(c, settings)
    out, found = ours(c, settings)

    assert out.loss.item() == pytest.approx(loss, rel=1e-12)
    assert found.tolist() == pytest.approx(gradient, rel=1e-12, abs=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.preset}-{s.importance_cap}")
def test_gradient_is_exactly_zero_where_untrained_or_without_advantage(settings: LossSettings) -> None:
    c = case(1)
    _, found = ours(c, settings)
    still = [not t or c.advantages[r] == 0 for t, r in zip(c.trained, c.rollout_of, strict=True)]

    assert any(still)
    assert all(g == 0 for g, s in zip(found.tolist(), still, strict=True) if s)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.preset}-{s.importance_cap}")
@pytest.mark.parametrize("cut", [1, 17, 59])
def test_micro_batches_add_up_to_the_batch(settings: LossSettings, cut: int) -> None:
    c = case(2)
    whole, gradient = ours(c, settings)
    first, left = ours(c, settings, slice(0, cut))
    second, right = ours(c, settings, slice(cut, None))

    assert (first.loss + second.loss).item() == pytest.approx(whole.loss.item(), rel=1e-12)
    assert torch.cat([left, right]).tolist() == pytest.approx(gradient.tolist(), rel=1e-12)
    assert (first.stats + second.stats).metrics() == pytest.approx(whole.stats.metrics(), rel=1e-12)


def test_capped_token_keeps_a_gradient_of_weight_cap() -> None:
    c = Case(new=[-0.1], old=[-5.0], trained=[True], rollout_of=[0], advantages=[-1.0])
    out, gradient = ours(c, LossSettings(importance_cap=2.0))

    assert out.loss.item() == pytest.approx(2.0)
    assert gradient.tolist() == pytest.approx([2.0])
    assert out.stats.metrics()["truncated_fraction"] == 1.0


def test_impossible_token_neither_overflows_nor_owns_the_step() -> None:
    c = Case(new=[-0.1, -0.1], old=[-1e30, -0.1], trained=[True, True], rollout_of=[0, 1], advantages=[-1.0, 1.0])
    out, gradient = ours(c, LossSettings())

    assert gradient.tolist() == pytest.approx([1.0, -0.5])
    assert all(math.isfinite(figure) for figure in out.stats.metrics().values())


def test_metrics_are_those_of_the_trained_tokens() -> None:
    c = Case(
        new=[-1.0, -1.0, math.nan],
        old=[-1.5, -1.0, math.nan],
        trained=[True, True, False],
        rollout_of=[0, 0, 0],
        advantages=[1.0],
    )
    found = ours(c, LossSettings())[0].stats.metrics()

    ratio = math.exp(0.5)
    assert found == pytest.approx({
        "trained_tokens": 2.0,
        "ratio_mean": (ratio + 1) / 2,
        "ratio_max": ratio,
        "clip_fraction": 0.5,
        "truncated_fraction": 0.0,
        "engine_kl": (ratio - 1 - 0.5) / 2,
        "logprob_drift_max": 0.5,
        "entropy": 1.25,
    })  # fmt: skip


def test_half_precision_log_probabilities_are_summed_in_fp32() -> None:
    new = torch.full((4096,), -1.0, dtype=torch.bfloat16, requires_grad=True)
    out = grpo_loss(
        new,
        torch.full((4096,), -1.0),
        torch.ones(4096, dtype=torch.bool),
        torch.zeros(4096, dtype=torch.long),
        torch.tensor([1.0]),
        torch.tensor([4096]),
        totals=BatchTotals(rollouts=1, tokens=4096),
        settings=LossSettings(),
    )

    assert out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(-1.0, abs=1e-6)


def test_no_trained_token_gives_zero_loss_and_no_figures() -> None:
    c = Case(new=[math.nan], old=[math.nan], trained=[False], rollout_of=[0], advantages=[1.0])
    out = grpo_loss(
        torch.tensor(c.new, requires_grad=True),
        torch.tensor(c.old),
        torch.tensor(c.trained),
        torch.tensor(c.rollout_of),
        torch.tensor(c.advantages),
        torch.tensor([0]),
        totals=BatchTotals(rollouts=1, tokens=1),
        settings=LossSettings(),
    )

    assert out.loss.item() == 0
    assert out.stats == TokenStats()
