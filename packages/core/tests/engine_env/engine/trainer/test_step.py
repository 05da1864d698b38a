"""Promises of one optimizer step: packing changes nothing, masked rollouts give exactly no gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_trainer import LOSS, group, request, session
from torch import Tensor

from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.forward import ForwardMode, TrainingRow, forward_logprobs, micro_batches
from woodshed.engine.trainer.policy import LoraPolicy, learning_rate
from woodshed.engine.trainer.step import StepRunner
from woodshed.errors import TrainError
from woodshed.loss.presets import PRESETS
from woodshed.types import LossSettings, OpenPolicy, OptimizerSettings, SealedSession

CPU = torch.device("cpu")
PATHS: tuple[ForwardMode, ...] = ("tree", "dense", "rows")
GROUPS = {**group("a"), **group("b", turns=3, length=4), **group("c", prompt=7)}
ADVANTAGES = {name: [1.0, -0.5, -0.75, 0.25][k % 4] for k, name in enumerate(GROUPS)}


def runner(model_path: str, **settings: Any) -> StepRunner:
    """Return a runner whose LoRA is not zero, so that every weight of it matters; no engine is that policy."""
    settings.setdefault("loss", LOSS)
    found = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", **settings)))
    generator = torch.Generator().manual_seed(1)
    for parameter in found.policy.parameters:
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


def batch(sessions: Mapping[str, SealedSession] = GROUPS, **changes: float) -> TrainingBatch:
    advantages = {name: ADVANTAGES.get(name, 0.0) for name in sessions} | changes
    return build_batch(request("s", advantages), sessions)


def gradient(of: StepRunner, b: TrainingBatch) -> Tensor:
    of.policy.optimizer.zero_grad(set_to_none=True)
    of.accumulate(b, of.micro_batches(b))
    return torch.cat([p.grad.flatten() for p in of.policy.parameters if p.grad is not None])


def weights(of: StepRunner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.policy.parameters])


def plain_logprobs(of: StepRunner, b: TrainingBatch) -> list[float]:
    """Return log-probabilities by one full forward pass per row and a full softmax."""
    found = []
    for rollout in b.learning:
        for row in rollout.rows:
            logits = of.policy.model(input_ids=torch.tensor([row.token_ids])).logits[0]
            for k in range(len(row.token_ids)):
                if row.trained[k]:
                    found.append((logits[k - 1] / row.temperatures[k]).log_softmax(-1)[row.token_ids[k]].item())
    return found


@pytest.mark.parametrize("budget", [10_000, 60, 1])
@pytest.mark.parametrize("mode", PATHS)
def test_log_probabilities_equal_a_plain_forward_pass(model_path: str, mode: ForwardMode, budget: int) -> None:
    warm = session("w", [7, 8, 9], [[10, 11], [12, 13]], sampling={"temperature": 0.6})
    b = batch({**GROUPS, "w": warm}, w=1.0)
    of = runner(model_path)
    of.mode, of.token_budget = mode, budget
    with torch.no_grad():
        found = [forward_logprobs(of.policy.model, part, mode).logprobs_M.tolist() for part in of.micro_batches(b)]
        plain = plain_logprobs(of, b)

    assert sorted(logprob for part in found for logprob in part) == pytest.approx(sorted(plain), abs=2e-5)


def test_a_pack_is_shorter_than_its_rows(model_path: str) -> None:
    parts = runner(model_path).micro_batches(batch())

    assert sum(part.input_ids_BN.numel() for part in parts) < 0.7 * sum(
        len(row.token_ids) for r in batch().learning for row in r.rows
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_gradient_does_not_depend_on_how_the_batch_is_cut(model_path: str, preset: Any) -> None:
    of = runner(model_path, loss=LossSettings(preset=preset))
    cuts = []
    for of.mode, of.token_budget in (
        ("rows", 1), ("tree", 10_000), ("tree", 40), ("dense", 10_000), ("dense", 40), ("rows", 10_000),
    ):  # fmt: skip
        cuts.append(gradient(of, batch()))

    for other in cuts[1:]:
        assert torch.allclose(other, cuts[0], rtol=1e-4, atol=1e-6 * cuts[0].abs().max().item())


def test_every_token_of_a_rollout_is_in_the_loss_however_the_batch_is_cut(model_path: str) -> None:
    of = runner(model_path)
    losses = []
    for of.token_budget in (10_000, 40):
        summed = of.accumulate(batch(), of.micro_batches(batch()))
        losses.append(summed.loss)

        assert summed.stats.tokens == sum(len(c.completions[0].token_ids) for s in GROUPS.values() for c in s.calls)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_masked_rollouts_leave_weights_bit_identical(model_path: str, bad: float) -> None:
    with_masked, without = runner(model_path), runner(model_path)
    masked = batch(**{name: bad for name in group("b")})
    with_masked.take(masked, 0)
    without.take(batch({**group("a"), **group("c", prompt=7)}), 0)

    assert list(masked.quarantined) == list(group("b"))
    assert torch.equal(weights(with_masked), weights(without))


def test_zero_advantage_gives_no_gradient_but_counts_in_the_normalizer(model_path: str) -> None:
    of = runner(model_path)
    few = gradient(of, batch(group("a")))
    diluted = gradient(of, batch({**group("a"), **group("b")}, **dict.fromkeys(group("b"), 0.0)))

    assert torch.allclose(diluted, few / 2, rtol=1e-5, atol=1e-12)


def test_a_rollout_of_many_calls_weighs_as_much_as_one_of_few(model_path: str) -> None:
    twice = session("t", [7, 8], [[9, 10]]).calls + session("t", [30, 31], [[32, 33]]).calls
    one = {"t": SealedSession(rollout_id="t", calls=twice)}
    split = {"x": session("x", [7, 8], [[9, 10]]), "y": session("y", [30, 31], [[32, 33]])}
    of = runner(model_path)
    # Equal engine log-probabilities, so that both see the same ratio.
    same = {"logprobs": (-4.5, -4.5)}

    def level(sessions: dict[str, SealedSession]) -> dict[str, SealedSession]:
        return {
            name: s.model_copy(update={"calls": tuple(
                c.model_copy(update={"completions": (c.completions[0].model_copy(update=same),)}) for c in s.calls
            )})
            for name, s in sessions.items()
        }  # fmt: skip

    single = gradient(of, build_batch(request("s", {"t": 0.1}), level(one)))
    double = gradient(of, build_batch(request("s", {"x": 0.1, "y": 0.1}), level(split)))

    assert torch.allclose(single, double, rtol=1e-4, atol=1e-9)


def test_loss_that_is_not_finite_takes_no_step(model_path: str) -> None:
    of = runner(model_path)
    before = weights(of)
    with pytest.raises(TrainError, match="no step was taken and the weights are as before"):
        of.take(batch(a0=1e300), 0)

    assert torch.equal(weights(of), before)
    assert not of.policy.optimizer.state


def test_gradient_that_is_not_finite_takes_no_step(model_path: str) -> None:
    of = runner(model_path)
    before = weights(of)
    with pytest.raises(TrainError, match="gradient's norm"):
        of.take(batch(a0=1e30, a1=-1e30), 0)

    assert torch.equal(weights(of), before)
    assert not of.policy.optimizer.state


def test_steps_raise_what_was_good_and_lower_what_was_bad(model_path: str) -> None:
    optimizer = OptimizerSettings(learning_rate=1e-2)
    of = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", optimizer=optimizer, loss=LOSS)))
    b = batch(group("a"), a0=1.0, a1=-1.0, a2=0.0, a3=0.0)

    def means() -> list[float]:
        with torch.no_grad():
            (part,) = of.micro_batches(b)
            logprobs = forward_logprobs(of.policy.model, part, of.mode).logprobs_M
            return [logprobs[part.rollout_of_M == k].mean().item() for k in range(2)]

    good, bad = means()
    for version in range(4):
        of.take(b, version)
    better, worse = means()

    assert better > good + 0.1
    assert worse < bad - 0.1


def test_metrics_say_how_stale_and_how_packed_the_batch_was(model_path: str) -> None:
    forward_logprobs = runner(model_path).take(batch(group("a")), 3)

    assert forward_logprobs["staleness_mean"] == forward_logprobs["staleness_max"] == 3.0
    assert forward_logprobs["rollouts"] == forward_logprobs["rollouts_with_gradient"] == forward_logprobs["rows"] == 4.0
    assert forward_logprobs["packed_tokens"] < forward_logprobs["row_tokens"]
    assert forward_logprobs["grad_norm"] > 0


def test_warm_up_rises_to_the_constant_rate() -> None:
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=3)

    assert [learning_rate(k, settings) for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(0, OptimizerSettings(learning_rate=1.0, warmup_steps=0)) == 1.0


def test_fresh_policy_is_the_base_model(model_path: str) -> None:
    model = LoraPolicy(model_path, OpenPolicy(name="p")).model
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
        with model.disable_adapter():
            base = model(input_ids=ids).logits

    assert torch.equal(adapted, base)


@pytest.mark.parametrize("mode", PATHS)
def test_micro_batches_hold_each_row_once(mode: ForwardMode) -> None:
    rows = [row for r in batch().rollouts for row in r.rows]
    given = [TrainingRow(row=row, rollout=k, advantages=[0.0] * len(row.token_ids)) for k, row in enumerate(rows)]
    parts = micro_batches(given, token_budget=50, mode=mode, device=CPU)
    counts = torch.cat([part.rollout_of_M for part in parts]).bincount()

    assert len(parts) > 1
    assert counts.tolist() == [sum(row.trained) for row in rows]
