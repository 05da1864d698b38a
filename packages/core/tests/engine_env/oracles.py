"""The loss of others on the tensors of ours: TRL, Liger and verl, each by its own function.

`python packages/core/tests/engine_env/oracles.py` prints a table of the largest relative differences and ends with 1
where one is above 1e-5, or where a library of the dependency group `oracle` is missing.

Shapes: B rollouts, T positions of a completion.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from woodshed.loss.grpo import BatchTotals, grpo_loss
from woodshed.loss.head import token_logprobs
from woodshed.types import LossSettings

LIMIT = 1e-5
LENGTHS = (7, 5, 3, 6)
ADVANTAGES = torch.tensor([1.3, -0.7, -1.1, 0.5], dtype=torch.double)
CONSTANT_LENGTH, NEVER = 64, 1e9
MODULES = {"TRL": "trl", "Liger": "liger_kernel", "verl": "verl"}
Pair = tuple[float, Tensor]


@dataclass(frozen=True, kw_only=True)
class World:
    """What every loss is given: completions of unequal length, with tool tokens inside two of them."""

    new_BT: Tensor
    old_BT: Tensor
    base_BT: Tensor
    entropy_BT: Tensor
    completion_BT: Tensor
    sampled_BT: Tensor

    @property
    def mask_BT(self) -> Tensor:
        """True where the policy sampled the token."""
        return self.completion_BT & self.sampled_BT


def world(drift: float, seed: int = 0) -> World:
    """Return fixed tensors; `drift` is how far old and new log-probabilities are apart."""
    draw = torch.Generator().manual_seed(seed)

    def random() -> Tensor:
        return torch.randn(4, 7, generator=draw, dtype=torch.double)

    new_BT = -random().abs() - 0.2
    sampled_BT = torch.ones(4, 7, dtype=torch.bool)
    sampled_BT[0, 2:4] = sampled_BT[3, 1] = False
    return World(
        new_BT=new_BT,
        old_BT=new_BT + drift * random(),
        base_BT=new_BT + 0.2 * random(),
        entropy_BT=random().abs(),
        completion_BT=torch.arange(7)[None] < torch.tensor(LENGTHS)[:, None],
        sampled_BT=sampled_BT,
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One loss: what it is called here, and what the others call it."""

    settings: LossSettings
    drift: float = 0.3
    seed: int = 0
    trl: dict[str, Any] | str
    """Its settings there, or why it has no such loss."""
    liger: dict[str, Any] | str
    verl: dict[str, Any] | str
    correction: str | None = None
    """How the others weigh the engine's log-probabilities; their ratio is then 1, and the weight is all there is."""
    clip: tuple[float, float] = (0.2, 0.2)
    extra: dict[str, float] = field(default_factory=dict)


def _plain(preset: Any, **settings: Any) -> LossSettings:
    """Return settings without a bound on the importance weight, which the others apply apart from the ratio."""
    return LossSettings(preset=preset, correction="none", **settings)


def _corrected(kind: Any, cap: float) -> LossSettings:
    return LossSettings(preset="dapo", correction=kind, importance_cap=cap, clip_low=NEVER, clip_high=NEVER)


_REJECTS = "verl masks by rejection and gives what is left no weight"
CASES = {
    "grpo": Case(
        settings=_plain("grpo"),
        trl={"loss_type": "grpo"}, liger={"loss_type": "grpo"},
        verl={"name": "vanilla", "mode": "seq-mean-token-mean"},
    ),
    "bnpo": Case(
        settings=_plain("bnpo"),
        trl={"loss_type": "bnpo"}, liger={"loss_type": "bnpo"}, verl={"name": "vanilla", "mode": "token-mean"},
    ),
    "dr_grpo": Case(
        settings=_plain("dr_grpo", constant_length=CONSTANT_LENGTH),
        trl={"loss_type": "dr_grpo"}, liger={"loss_type": "dr_grpo"},
        verl={"name": "vanilla", "mode": "seq-mean-token-sum-norm"},
    ),
    "dapo": Case(
        settings=_plain("dapo"), clip=(0.2, 0.28),
        trl={"loss_type": "dapo"}, liger={"loss_type": "dapo"}, verl={"name": "vanilla", "mode": "token-mean"},
    ),
    "gspo": Case(
        settings=LossSettings(preset="gspo"), seed=1, clip=(3e-4, 4e-4),
        trl={"loss_type": "grpo", "level": "sequence"}, liger={"loss_type": "grpo", "level": "sequence"},
        verl={"name": "gspo", "mode": "seq-mean-token-mean"},
    ),
    "cispo": Case(
        settings=LossSettings(preset="cispo"), drift=1.2, clip=(1.0, 4.0),
        trl={"loss_type": "cispo", "bound": 5.0}, liger={"loss_type": "cispo", "bound": 5.0},
        verl={"name": "cispo", "mode": "token-mean"},
    ),
    "sapo": Case(
        settings=LossSettings(preset="sapo"),
        trl={"loss_type": "sapo"}, liger={"loss_type": "sapo"}, verl={"name": "sapo", "mode": "seq-mean-token-mean"},
    ),
    "dapo, token truncate": Case(
        settings=_corrected("token_truncate", 2.0), drift=0.8, correction="token_truncate",
        trl={"loss_type": "dapo"}, liger={"loss_type": "dapo"}, verl={"name": "vanilla", "mode": "token-mean"},
    ),
    "dapo, token mask": Case(
        settings=_corrected("token_mask", 2.0), drift=0.8, correction="token_mask",
        trl={"loss_type": "dapo"}, liger={"loss_type": "dapo"}, verl=_REJECTS,
    ),
    "dapo, sequence truncate": Case(
        settings=_corrected("sequence_truncate", 2.0), drift=0.8, correction="sequence_truncate",
        trl={"loss_type": "dapo"}, liger={"loss_type": "dapo"}, verl={"name": "vanilla", "mode": "token-mean"},
    ),
    "dapo, sequence mask": Case(
        settings=_corrected("sequence_mask", 3.0), drift=0.5, correction="sequence_mask",
        trl={"loss_type": "dapo"}, liger={"loss_type": "dapo"}, verl=_REJECTS,
    ),
    "grpo, KL to the base": Case(
        settings=_plain("grpo", kl_coef=0.04), extra={"kl": 0.04},
        trl={"loss_type": "grpo"}, liger={"loss_type": "grpo"},
        verl={"name": "vanilla", "mode": "seq-mean-token-mean"},
    ),
    "dapo, entropy bonus": Case(
        settings=_plain("dapo", entropy_coef=0.1), clip=(0.2, 0.28), extra={"entropy": 0.1},
        trl={"loss_type": "dapo"}, liger="Liger has no entropy bonus",
        verl={"name": "vanilla", "mode": "token-mean"},
    ),
}  # fmt: skip


def ours(case: Case, w: World) -> Pair:
    """Return loss and gradient of ours, over the same positions in one flat row."""
    new_BT = w.new_BT.clone().requires_grad_(True)
    out = grpo_loss(
        new_BT.flatten(),
        w.old_BT.flatten(),
        w.mask_BT.flatten(),
        torch.arange(4).repeat_interleave(7),
        ADVANTAGES.repeat_interleave(7),
        w.mask_BT.sum(1),
        totals=BatchTotals(rollouts=4, tokens=int(w.mask_BT.sum())),
        settings=case.settings,
        base_logprobs_M=w.base_BT.flatten(),
        entropies_M=w.entropy_BT.flatten(),
    )
    return _with_gradient(out.loss, new_BT)


def _with_gradient(loss: Tensor, new_BT: Tensor) -> Pair:
    (gradient,) = torch.autograd.grad(loss, new_BT)
    return loss.item(), gradient


def _weights(case: Case, w: World) -> Tensor | None:
    """Return the importance weights the others are given, from the engine's log-probabilities."""
    if case.correction is None:
        return None
    cap = case.settings.importance_cap or 2.0
    log_BT = (w.new_BT - w.old_BT) * w.mask_BT
    weights = (log_BT.sum(-1, keepdim=True) if case.correction.startswith("sequence") else log_BT).exp()
    if case.correction.endswith("truncate"):
        return weights.clamp(max=cap)
    return weights.masked_fill((weights < 1 / cap) | (weights > cap), 0.0)


def trl_loss(case: Case, w: World) -> Pair:
    """Return loss and gradient of TRL's `GRPOTrainer._compute_loss`."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    named = dict(case.trl)  # type: ignore[arg-type]
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    new_BT, weights = w.new_BT.clone().requires_grad_(True), _weights(case, w)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new_BT, w.entropy_BT, None)
    entropy = case.extra.get("entropy", 0.0)
    whole: dict[str, Any] = {
        "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
        "importance_sampling_level": named.get("level", "token"), "beta": case.extra.get("kl", 0.0),
        "loss_type": named["loss_type"], "epsilon_low": case.clip[0], "epsilon_high": named.get("bound", case.clip[1]),
        "use_vllm": weights is not None, "vllm_importance_sampling_correction": weights is not None,
        "model": SimpleNamespace(training=True), "current_gradient_accumulation_steps": 1,
        "max_completion_length": CONSTANT_LENGTH, "_entropy_bonus_enabled": entropy > 0, "entropy_coef": entropy,
        "use_adaptive_entropy": False, "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "args": SimpleNamespace(
            delta=None, steps_per_generation=1, use_bias_correction_kl=False, sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        "accelerator": SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True,
            pad_across_processes=lambda x, **_: x,
        ),
    }  # fmt: skip
    for name, value in whole.items():
        setattr(trainer, name, value)
    inputs: dict[str, Any] = {
        "prompt_ids": torch.zeros(4, 2, dtype=torch.long),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.zeros(4, 7, dtype=torch.long),
        "completion_mask": w.completion_BT.long(),
        "tool_mask": w.sampled_BT.long(),
        "advantages": ADVANTAGES,
        "num_items_in_batch": w.mask_BT.sum().double(),
        "ref_per_token_logps": w.base_BT,
    }
    if weights is None:
        inputs["old_per_token_logps"] = w.old_BT
    else:
        inputs |= {"importance_sampling_ratio": weights, "sampling_per_token_logps": w.old_BT}
    return _with_gradient(GRPOTrainer._compute_loss(trainer, trainer.model, inputs), new_BT)


def liger_loss(case: Case, w: World) -> Pair:
    """Return loss and gradient of the function inside Liger's fused GRPO head."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    named = dict(case.liger)  # type: ignore[arg-type]
    new_BT, weights = w.new_BT.clone().requires_grad_(True), _weights(case, w)
    loss, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
        new_BT,
        w.mask_BT.long(),
        ADVANTAGES,
        w.mask_BT.long(),
        ref_per_token_logps=w.base_BT,
        old_per_token_logps=w.old_BT if weights is None else None,
        epsilon_low=case.clip[0],
        epsilon_high=named.get("bound", case.clip[1]),
        beta=case.extra.get("kl", 0.0),
        loss_type=named["loss_type"],
        max_completion_length=CONSTANT_LENGTH,
        importance_sampling_level=named.get("level", "token"),
        vllm_is_ratio=weights,
    )
    return _with_gradient(loss, new_BT)


def verl_loss(case: Case, w: World) -> Pair:
    """Return loss and gradient of verl's registered policy loss, with its own KL and entropy terms beside it."""
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    named = dict(case.verl)  # type: ignore[arg-type]
    new_BT, weights = w.new_BT.clone().requires_grad_(True), _weights(case, w)
    scaled = {"loss_scale_factor": CONSTANT_LENGTH} if "norm" in named["mode"] else {}
    config = ActorConfig(
        strategy="fsdp", rollout_n=4, ppo_micro_batch_size_per_gpu=4, clip_ratio_low=case.clip[0],
        clip_ratio_high=case.clip[1], clip_ratio_c=NEVER, tau_pos=1.0, tau_neg=1.05,
        global_batch_info=scaled,
    )  # fmt: skip
    mask_BT = w.mask_BT.double()
    loss, _ = core_algos.get_policy_loss_fn(named["name"])(
        w.old_BT if weights is None else new_BT.detach(), new_BT, ADVANTAGES[:, None].expand(4, 7), mask_BT,
        named["mode"], config, weights,
    )  # fmt: skip

    def mean(x_BT: Tensor) -> Tensor:
        found: Tensor = core_algos.agg_loss(x_BT, mask_BT, named["mode"], **scaled)
        return found

    if "kl" in case.extra:
        loss = loss + case.extra["kl"] * mean(core_algos.kl_penalty(new_BT, w.base_BT, "low_var_kl"))
    if "entropy" in case.extra:
        loss = loss - case.extra["entropy"] * mean(w.entropy_BT)
    return _with_gradient(loss, new_BT)


ORACLES: dict[str, Callable[[Case, World], Pair]] = {"TRL": trl_loss, "Liger": liger_loss, "verl": verl_loss}


@dataclass(frozen=True)
class Difference:
    """Largest relative differences, or why there is nothing to compare with."""

    loss: float = 0.0
    gradient: float = 0.0
    why_none: str | None = None

    @property
    def fine(self) -> bool:
        """Whether both are within the limit, or there is a reason that is not a missing library."""
        return max(self.loss, self.gradient) <= LIMIT and not (self.why_none or "").endswith("not installed")


def difference(name: str, oracle: str) -> Difference:
    """Return how far an oracle is from ours."""
    case = CASES[name]
    asked = getattr(case, oracle.lower())
    if isinstance(asked, str):
        return Difference(why_none=asked)
    if importlib.util.find_spec(MODULES[oracle]) is None:
        return Difference(why_none=f"{MODULES[oracle]} is not installed")
    w = world(case.drift, case.seed)
    return _between(ours(case, w), ORACLES[oracle](case, w))


def head_difference() -> Difference:
    """Return how far Liger's fused linear head and loss are from our head and loss, from hidden states on."""
    if importlib.util.find_spec("liger_kernel") is None:
        return Difference(why_none="liger_kernel is not installed")
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    w, draw, heat = world(0.3), torch.Generator().manual_seed(1), 0.7
    weight = 0.3 * torch.randn(50, 16, generator=draw)
    token_BT = torch.randint(0, 50, (4, 7), generator=draw)
    theirs, mine = (torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(2)).requires_grad_() for _ in "ab")
    old_BT = (theirs.detach() @ weight.T / heat).log_softmax(-1).gather(-1, token_BT[..., None])[..., 0]
    old_BT = old_BT + 0.2 * torch.randn(4, 7, generator=draw)
    liger = LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=False, use_ref_model=False, temperature=heat, loss_type="dapo", epsilon_high=0.28
    )
    loss, _ = liger(theirs, weight, token_BT, w.mask_BT.long(), ADVANTAGES.float(), old_per_token_logps=old_BT)
    expected = _with_gradient(loss, theirs)
    every = torch.arange(28)
    new_M, _ = token_logprobs(mine.flatten(0, 1), weight, torch.full((28,), heat), every, token_BT.flatten())
    out = grpo_loss(
        new_M, old_BT.flatten(), w.mask_BT.flatten(), torch.arange(4).repeat_interleave(7),
        ADVANTAGES.repeat_interleave(7), w.mask_BT.sum(1),
        totals=BatchTotals(rollouts=4, tokens=int(w.mask_BT.sum())), settings=CASES["dapo"].settings,
    )  # fmt: skip
    return _between(_with_gradient(out.loss, mine), expected)


def _between(found: Pair, expected: Pair) -> Difference:
    scale = expected[1].abs().max()
    assert scale > 0 and abs(expected[0]) > 0, "an oracle that says nothing is no oracle"
    return Difference(
        loss=abs(found[0] - expected[0]) / abs(expected[0]),
        gradient=((found[1] - expected[1]).abs().max() / scale).item(),
    )


def main() -> int:
    """Print the table, and return the exit status."""
    warnings.filterwarnings("ignore")
    table = {name: {oracle: difference(name, oracle) for oracle in ORACLES} for name in CASES}
    table["fused head and dapo (fp32)"] = {
        "TRL": Difference(why_none="TRL makes all logits"),
        "Liger": head_difference(),
        "verl": Difference(why_none="verl makes all logits"),
    }
    print(f"largest relative difference, loss / gradient (limit {LIMIT:g})")
    print(f"{'':28}" + "".join(f"{oracle:20}" for oracle in ORACLES))
    reasons: dict[str, int] = {}
    for name, row in table.items():
        cells = [
            f"{d.loss:.0e} / {d.gradient:.0e}" if d.why_none is None
            else f"[{reasons.setdefault(d.why_none, len(reasons) + 1)}]"
            for d in row.values()
        ]  # fmt: skip
        print(f"{name:28}" + "".join(f"{cell:20}" for cell in cells))
    for reason, number in reasons.items():
        print(f"[{number}] {reason}")
    return 0 if all(d.fine for row in table.values() for d in row.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
