"""The three presets against TRL's own loss on fixed tensors. Needs the dependency group `oracle` (trl)."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.loss.grpo import BatchTotals, grpo_loss
from etude.types import LossSettings

trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed; install the group `oracle`")

# B: rollouts  T: completion positions
LENGTHS = (7, 5, 3, 6)
ADVANTAGES = (1.3, -0.7, -1.1, 0.5)
NEVER = 1e9
CLIP = {"grpo": (0.2, 0.2), "dr_grpo": (0.2, 0.2), "dapo": (0.2, 0.28)}


def tensors(drift: float) -> SimpleNamespace:
    """Return fixed tensors: completions of unequal length, tool tokens inside two of them."""
    generator = torch.Generator().manual_seed(0)
    new_BT = -torch.randn(4, 7, generator=generator, dtype=torch.double).abs() - 0.2
    old_BT = new_BT + drift * torch.randn(4, 7, generator=generator, dtype=torch.double)
    completion_BT = torch.arange(7)[None] < torch.tensor(LENGTHS)[:, None]
    sampled_BT = torch.ones(4, 7, dtype=torch.bool)
    sampled_BT[0, 2:4] = False
    sampled_BT[3, 1] = False
    return SimpleNamespace(new=new_BT, old=old_BT, completion=completion_BT, sampled=sampled_BT)


def trl_loss(d: SimpleNamespace, preset: str, *, clip: tuple[float, float], cap: float | None) -> tuple[float, Tensor]:
    """Return loss and gradient of TRL's `_compute_loss`.

    With `cap` None the engine's log-probabilities are TRL's old ones (PPO's ratio and clip). Otherwise they are its
    sampling ones: a ratio of 1 times a truncated importance weight, as `_generate_and_score_completions` makes it.
    """
    trainer = trl.GRPOTrainer.__new__(trl.GRPOTrainer)
    new_BT = d.new.clone().requires_grad_(True)
    trainer._get_per_token_logps_and_entropies = lambda *a, **k: (new_BT, torch.zeros_like(new_BT), None)
    whole: dict[str, Any] = {
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token",
        "beta": 0.0, "loss_type": preset, "epsilon_low": clip[0], "epsilon_high": clip[1],
        "use_vllm": cap is not None, "vllm_importance_sampling_correction": cap is not None,
        "model": SimpleNamespace(training=True), "current_gradient_accumulation_steps": 1,
        "max_completion_length": 64, "_entropy_bonus_enabled": False, "use_adaptive_entropy": False,
        "entropy_coef": 0.0, "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "args": SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=True),
        "accelerator": SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True,
            pad_across_processes=lambda x, **k: x,
        ),
    }  # fmt: skip
    for name, value in whole.items():
        setattr(trainer, name, value)
    mask_BT = d.completion & d.sampled
    inputs = {
        "prompt_ids": torch.zeros(4, 2, dtype=torch.long),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.zeros(4, 7, dtype=torch.long),
        "completion_mask": d.completion.long(),
        "tool_mask": d.sampled.long(),
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.double),
        "num_items_in_batch": mask_BT.sum().double(),
    }
    if cap is None:
        inputs["old_per_token_logps"] = d.old
    else:
        inputs["importance_sampling_ratio"] = ((d.new - d.old) * mask_BT).exp().clamp(max=cap)
        inputs["sampling_per_token_logps"] = d.old
    loss = trl.GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    (gradient,) = torch.autograd.grad(loss, new_BT)
    return loss.item(), gradient


def our_loss(d: SimpleNamespace, settings: LossSettings) -> tuple[float, Tensor]:
    """Return loss and gradient of ours, over the same positions in one flat row."""
    new_BT = d.new.clone().requires_grad_(True)
    mask_BT = d.completion & d.sampled
    out = grpo_loss(
        new_BT.flatten(),
        d.old.flatten(),
        mask_BT.flatten(),
        torch.arange(4).repeat_interleave(7),
        torch.tensor(ADVANTAGES, dtype=torch.double),
        mask_BT.sum(1),
        totals=BatchTotals(rollouts=4, tokens=int(mask_BT.sum())),
        settings=settings,
    )
    (gradient,) = torch.autograd.grad(out.loss, new_BT)
    return out.loss.item(), gradient


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "dapo"])
def test_ratio_clip_and_normalizer_equal_trl(preset: Any, record_property: pytest.RecordProperty) -> None:
    d = tensors(drift=0.3)
    loss, gradient = trl_loss(d, preset, clip=CLIP[preset], cap=None)
    settings = LossSettings(preset=preset, importance_cap=1e6, constant_length=64)
    found, ours = our_loss(d, settings)

    assert 0 < int((gradient == 0).sum() - (~(d.completion & d.sampled)).sum()), "no token was clipped"
    _agree(loss, gradient, found, ours, record_property)


@pytest.mark.parametrize("preset", ["grpo", "dr_grpo", "dapo"])
def test_truncated_importance_sampling_equals_trl(preset: Any, record_property: pytest.RecordProperty) -> None:
    d = tensors(drift=0.8)
    assert ((d.new - d.old).exp()[d.completion & d.sampled] > 2).any(), "no token was truncated"
    loss, gradient = trl_loss(d, preset, clip=CLIP[preset], cap=2.0)
    settings = LossSettings(preset=preset, clip_low=NEVER, clip_high=NEVER, importance_cap=2.0, constant_length=64)
    found, ours = our_loss(d, settings)

    _agree(loss, gradient, found, ours, record_property)


def _agree(loss: float, gradient: Tensor, found: float, ours: Tensor, record: Any) -> None:
    record("loss_difference", abs(found - loss))
    record("gradient_difference", (ours - gradient).abs().max().item())
    print(f"|loss - TRL| {abs(found - loss):.1e}  max |gradient - TRL| {(ours - gradient).abs().max().item():.1e}")
    assert found == pytest.approx(loss, abs=1e-12)
    assert torch.allclose(ours, gradient, rtol=0, atol=1e-12)
