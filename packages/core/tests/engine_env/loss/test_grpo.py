"""Promises of the loss: it equals a plain loop, splits exactly, and gives no gradient where nothing was trained."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from woodshed.loss.grpo import BatchTotals, LossOut, grpo_loss, log_ratio_sums
from woodshed.loss.metrics import TokenStats
from woodshed.loss.presets import PRESETS
from woodshed.types import LossSettings

SETTINGS = {
    "grpo": LossSettings(preset="grpo"),
    "bnpo": LossSettings(preset="bnpo"),
    "dr_grpo": LossSettings(preset="dr_grpo", constant_length=16),
    "dapo": LossSettings(preset="dapo"),
    "gspo": LossSettings(preset="gspo"),
    "gspo wide": LossSettings(preset="gspo", clip_low=0.1, clip_high=0.1),
    "cispo": LossSettings(preset="cispo"),
    "cispo narrow": LossSettings(preset="cispo", clip_low=0.2, clip_high=0.3),
    "sapo": LossSettings(preset="sapo"),
    "sapo steep": LossSettings(preset="sapo", gate_positive=3.0, gate_negative=0.5),
    "low cap": LossSettings(preset="grpo", importance_cap=1.1),
    "lower cap": LossSettings(preset="dapo", clip_low=0.05, clip_high=0.4, importance_cap=1.0),
    "uncorrected": LossSettings(preset="grpo", correction="none"),
    "token mask": LossSettings(preset="bnpo", correction="token_mask", importance_cap=1.2),
    "sequence truncate": LossSettings(preset="dapo", correction="sequence_truncate", importance_cap=1.5),
    "sequence mask": LossSettings(preset="grpo", correction="sequence_mask", importance_cap=3.0),
    "kl": LossSettings(preset="dapo", kl_coef=0.3),
    "entropy": LossSettings(preset="gspo", entropy_coef=0.2),
    "dapo by rollout": LossSettings(preset="dapo", normalizer="rollout_mean"),
    "grpo by constant": LossSettings(preset="grpo", normalizer="constant_length", constant_length=7),
}
EACH = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


@dataclass
class Case:
    """Random tokens of random rollouts, in random order."""

    new: list[float]
    old: list[float]
    trained: list[bool]
    rollout_of: list[int]
    advantages: list[float]
    base: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)

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
        base=[n + draw.gauss(0, 0.5) if t else math.nan for n, t in zip(new, trained, strict=True)],
        entropy=[draw.random() if t else math.nan for t in trained],
    )


def twin(c: Case, s: LossSettings) -> tuple[float, list[float]]:
    """Return loss and gradient by loops and `math.exp` alone, preset by preset as its paper has it."""
    preset = PRESETS[s.preset]
    low, high = 1 - (s.clip_low or preset.clip_low), 1 + (s.clip_high or preset.clip_high)
    loss, gradient, total, rollouts = 0.0, [], sum(c.tokens_of), len(c.advantages)
    for k, (new, old, trained, r) in enumerate(zip(c.new, c.old, c.trained, c.rollout_of, strict=True)):
        if not trained:
            gradient.append(0.0)
            continue
        weight = {
            "rollout_mean": 1 / (c.tokens_of[r] * rollouts),
            "constant_length": 1 / (rollouts * (s.constant_length or 512)),
            "batch_tokens": 1 / total,
        }[s.normalizer or preset.normalizer]
        advantage, ratio = c.advantages[r], math.exp(new - old)
        product = math.prod(
            math.exp(n - o) for n, o, t, of in zip(c.new, c.old, c.trained, c.rollout_of, strict=True) if t and of == r
        )
        if s.preset == "sapo":
            heat = (s.gate_positive or 1.0) if advantage > 0 else (s.gate_negative or 1.05)
            gate = 1 / (1 + math.exp(-heat * (ratio - 1)))
            value, slope = gate * 4 / heat, 4 * gate * (1 - gate) * ratio
        elif s.preset == "cispo":
            slope = max(min(ratio, high), low)
            value = slope * new
        else:
            tested = product ** (1 / c.tokens_of[r]) if s.preset == "gspo" else ratio
            value, slope = plain_clip(tested, ratio, product, advantage, low, high, s)
        loss -= value * advantage * weight
        slope *= -advantage * weight
        if s.kl_coef:
            loss += s.kl_coef * weight * (math.exp(c.base[k] - new) - (c.base[k] - new) - 1)
            slope += s.kl_coef * weight * (1 - math.exp(c.base[k] - new))
        loss -= s.entropy_coef * c.entropy[k] / total
        gradient.append(slope)
    return loss, gradient


def plain_clip(
    tested: float, ratio: float, product: float, advantage: float, low: float, high: float, s: LossSettings
) -> tuple[float, float]:
    """Return value and slope of the clipped surrogate, for the presets that clip."""
    correction, cap = s.correction or PRESETS[s.preset].correction, s.importance_cap or 2.0
    weight = tested if s.preset == "gspo" else product if correction.startswith("sequence") else ratio
    if correction.endswith("truncate"):
        weight = min(weight, cap)
    if correction.endswith("mask") and not 1 / cap <= weight <= cap:
        weight = 0.0
    if (advantage > 0 and tested > high) or (advantage < 0 and tested < low):
        edge = max(min(tested, high), low)
        return (min(edge, cap) if correction == "token_truncate" else edge), 0.0
    return weight, weight


def ours(c: Case, s: LossSettings, part: slice | None = None) -> tuple[LossOut, Tensor]:
    """Return the loss of some of the tokens and its gradient, in fp64."""
    part = part or slice(None)
    new = torch.tensor(c.new[part], dtype=torch.double, requires_grad=True)
    out = grpo_loss(
        new,
        torch.tensor(c.old[part], dtype=torch.double),
        torch.tensor(c.trained[part]),
        torch.tensor(c.rollout_of[part]),
        torch.tensor([c.advantages[r] for r in c.rollout_of[part]], dtype=torch.double),
        torch.tensor(c.tokens_of),
        totals=BatchTotals(rollouts=len(c.advantages), tokens=sum(c.tokens_of)),
        settings=s,
        log_ratio_of_R=sums(c) if part != slice(None) else None,
        base_logprobs_M=torch.tensor(c.base[part], dtype=torch.double) if s.kl_coef else None,
        entropies_M=torch.tensor(c.entropy[part], dtype=torch.double) if s.entropy_coef else None,
    )
    (gradient,) = torch.autograd.grad(out.loss, new)
    return out, gradient


def sums(c: Case) -> Tensor:
    """Return each rollout's log ratios, summed up over two parts."""
    new, old = (torch.tensor(x, dtype=torch.double) for x in (c.new, c.old))
    trained, rollout_of, count = torch.tensor(c.trained), torch.tensor(c.rollout_of), len(c.advantages)
    parts = [log_ratio_sums(new[p], old[p], trained[p], rollout_of[p], count) for p in (slice(9), slice(9, None))]
    return parts[0] + parts[1]


@pytest.mark.parametrize("seed", range(8))
@EACH
def test_loss_and_gradient_equal_a_plain_loop(settings: LossSettings, seed: int) -> None:
    c = case(seed)
    loss, gradient = twin(c, settings)
    out, found = ours(c, settings)

    assert out.loss.item() == pytest.approx(loss, rel=1e-11)
    assert found.tolist() == pytest.approx(gradient, rel=1e-10, abs=1e-15)


@EACH
def test_gradient_is_exactly_zero_where_untrained_or_without_advantage(settings: LossSettings) -> None:
    c = case(1)
    _, found = ours(c, settings.model_copy(update={"kl_coef": 0.0}))
    still = [not t or c.advantages[r] == 0 for t, r in zip(c.trained, c.rollout_of, strict=True)]

    assert any(still)
    assert all(g == 0 for g, s in zip(found.tolist(), still, strict=True) if s)


@EACH
@pytest.mark.parametrize("cut", [1, 17, 59])
def test_micro_batches_add_up_to_the_batch(settings: LossSettings, cut: int) -> None:
    c = case(2)
    whole, gradient = ours(c, settings)
    first, left = ours(c, settings, slice(0, cut))
    second, right = ours(c, settings, slice(cut, None))

    assert (first.loss + second.loss).item() == pytest.approx(whole.loss.item(), rel=1e-12)
    assert torch.cat([left, right]).tolist() == pytest.approx(gradient.tolist(), rel=1e-12)
    assert (first.stats + second.stats).metrics() == pytest.approx(whole.stats.metrics(), rel=1e-12)


def test_the_cases_clip_cut_and_mask() -> None:
    stats = {name: ours(case(3), settings)[0].stats for name, settings in SETTINGS.items()}

    assert all(stats[name].clipped > 0 for name in ("grpo", "gspo", "gspo wide", "cispo narrow", "token mask"))
    assert all(stats[name].truncated > 0 for name in ("low cap", "token mask", "sequence truncate", "sequence mask"))
    assert stats["kl"].base_kl_sum > 0 and stats["entropy"].entropy_sum > 0


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
        "logprob_drift_mean": 0.25,
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
        torch.ones(4096),
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
