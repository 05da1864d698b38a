"""Promises of a step's limits: drift is warned of and stopped, memory is foreseen, and what a loss needs is there."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tiny_trainer import group, request, save_model, session
from torch import Tensor

from woodshed.engine.trainer import step as step_module
from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.forward import forward_logprobs
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.errors import DriftError
from woodshed.types import LossSettings, OpenPolicy, SealedSession

GROUP = group("a", size=4, turns=3, length=6)
WORTH = {name: [1.0, -0.5, -0.75, 0.25][k] for k, name in enumerate(GROUP)}


def runner(model_path: str, **loss: Any) -> StepRunner:
    found = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", loss=LossSettings(**{"drift_stop": 1e9, **loss}))))
    draw = torch.Generator().manual_seed(1)
    for parameter in found.policy.parameters:
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
    return found


def step_in_fresh_process(model_path: str, is_checkpointed: bool) -> tuple[dict[str, float], float]:
    """Return a step's metrics and the bytes it needs if no layer runs twice, in a heap that others freed nothing in."""
    of = runner(model_path)
    big = group("a", size=8, prompt=600, turns=1, length=300, vocabulary=512)
    asked = build_batch(request("s", {name: 0.5 for name in big}), big)
    (part,) = of.micro_batches(asked)
    plain = of.memory.predicted(part, checkpointed=False)
    free = 0.9 * plain if is_checkpointed else 10 * plain
    with patch.object(step_module, "available_bytes", lambda device: free):
        return of.take(asked, 0), plain


def batch(sessions: dict[str, SealedSession] = GROUP) -> TrainingBatch:
    return build_batch(request("s", {name: WORTH.get(name, 0.0) for name in sessions}), sessions)


def sampled_by(of: StepRunner, away: float, version: int = 0) -> TrainingBatch:
    """Return the batch as if the policy itself had sampled it, with log-probabilities `away` from its own."""
    b = batch()
    with torch.no_grad():
        parts = of.micro_batches(b)
        own = {}
        for part in parts:
            logprobs = forward_logprobs(of.policy.model, part, of.mode).logprobs_M.tolist()
            for rollout, logprob in zip(part.rollout_of_M.tolist(), logprobs, strict=True):
                own.setdefault(rollout, []).append(logprob + away)
    sessions = {}
    for k, rollout in enumerate(b.learning):
        calls, at = [], 0
        for call in GROUP[rollout.rollout_id].calls:
            (answer,) = call.completions
            count = len(answer.token_ids)
            changed = {"logprobs": tuple(own[k][at : at + count]), "weight_versions": (version,) * count}
            calls.append(call.model_copy(update={"completions": (answer.model_copy(update=changed),)}))
            at += count
        sessions[rollout.rollout_id] = SealedSession(rollout_id=rollout.rollout_id, calls=tuple(calls))
    return batch(sessions)


def gradient(of: StepRunner, b: TrainingBatch) -> Tensor:
    of.policy.optimizer.zero_grad(set_to_none=True)
    of.accumulate(b, of.micro_batches(b))
    return torch.cat([p.grad.flatten() for p in of.policy.parameters if p.grad is not None])


def weights(of: StepRunner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in of.policy.parameters])


def test_policy_that_sampled_itself_has_no_drift(model_path: str, caplog: pytest.LogCaptureFixture) -> None:
    of = runner(model_path, drift_stop=0.5)
    metrics = of.take(sampled_by(of, 0.0), 0)

    assert metrics["logprob_drift_fresh"] < 1e-5
    assert metrics["logprob_drift_mean"] < 1e-5
    assert not caplog.records


def test_drift_above_the_first_limit_is_warned_of(model_path: str, caplog: pytest.LogCaptureFixture) -> None:
    of = runner(model_path, drift_stop=0.5)
    with caplog.at_level(logging.WARNING, "woodshed.trainer"):
        metrics = of.take(sampled_by(of, 0.1), 0)

    assert metrics["logprob_drift_fresh"] == pytest.approx(0.1, rel=1e-3)
    assert "differ by 0.1 in the log-probability" in caplog.text


def test_drift_above_the_second_limit_takes_no_step(model_path: str) -> None:
    of = runner(model_path, drift_stop=0.5)
    before = weights(of)
    with pytest.raises(DriftError, match=r"differ by 0\.6 .*did not sample from this policy.*weights are as before"):
        of.take(sampled_by(of, 0.6), 0)

    assert torch.equal(weights(of), before)


def test_tokens_of_older_weights_do_not_count_as_drift(model_path: str) -> None:
    of = runner(model_path, drift_stop=0.5)
    metrics = of.take(sampled_by(of, 0.6, version=2), 3)

    assert "logprob_drift_fresh" not in metrics
    assert metrics["logprob_drift_mean"] == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize("preset", ["gspo", "dapo"])
def test_sequence_ratios_are_those_of_the_whole_batch_however_it_is_cut(model_path: str, preset: Any) -> None:
    loss: dict[str, Any] = {"preset": preset, "clip_low": 0.5, "clip_high": 0.5}
    of = runner(model_path, **loss, **({} if preset == "gspo" else {"correction": "sequence_truncate"}))
    # Two rows of one rollout in different packs: the ratio of one needs the other.
    split = {
        **GROUP,
        "x": SealedSession(
            rollout_id="x", calls=session("x", [90, 91], [[9, 10]]).calls + session("x", [7, 8], [[9, 10]]).calls
        ),
    }
    b = build_batch(request("s", {**WORTH, "x": 0.3}), split)
    whole = gradient(of, b)
    of.token_budget = 12
    assert len(of.micro_batches(b)) > 2

    assert torch.allclose(gradient(of, b), whole, rtol=1e-4, atol=1e-6 * whole.abs().max().item())


def test_kl_to_the_base_is_zero_for_the_base_and_grows_away_from_it(model_path: str) -> None:
    fresh = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", loss=LossSettings(kl_coef=0.5, drift_stop=1e9))))
    summed = fresh.accumulate(batch(), fresh.micro_batches(batch()))
    away = runner(model_path, kl_coef=0.5)
    far = away.accumulate(batch(), away.micro_batches(batch()))

    assert summed.stats.base_kl_sum == 0
    assert far.stats.base_kl_sum > 0.01


def test_rollouts_without_advantage_are_pulled_to_the_base_too(model_path: str) -> None:
    sessions = {**GROUP, **group("b")}
    plain, pulled = runner(model_path), runner(model_path, kl_coef=0.5)

    assert sum(len(part.token_M) for part in plain.micro_batches(batch(sessions))) == batch(GROUP).tokens
    assert sum(len(part.token_M) for part in pulled.micro_batches(batch(sessions))) == batch(sessions).tokens


def test_entropy_bonus_raises_the_entropy(model_path: str) -> None:
    of = runner(model_path, entropy_coef=5.0)
    of.policy.settings = of.policy.settings.model_copy(
        update={"optimizer": of.policy.settings.optimizer.model_copy(update={"learning_rate": 3e-3})}
    )
    entropies = [of.take(batch(), version)["policy_entropy"] for version in range(6)]

    assert entropies[-1] > entropies[0] + 0.02


def test_step_that_does_not_fit_runs_its_layers_twice_with_the_same_gradient(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = runner(model_path)
    plain = gradient(of, batch())
    monkeypatch.setattr(
        step_module, "available_bytes", lambda device: of.memory.max_positions(1.0, checkpointed=False) + 2e5
    )
    again = gradient(of, batch())

    assert of.checkpointed
    assert torch.allclose(again, plain, rtol=1e-4, atol=1e-6 * plain.abs().max().item())


def test_step_whose_rows_do_not_fit_together_takes_more_micro_batches(
    model_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = runner(model_path)
    whole = gradient(of, batch())
    monkeypatch.setattr(of, "memory", replace(of.memory, per_token=1.0, per_token_checkpointed=1.0, per_pair=0.0))
    monkeypatch.setattr(step_module, "_MIN_PACK", 1)
    monkeypatch.setattr(step_module, "available_bytes", lambda device: 50.0)

    assert len(of.micro_batches(batch())) > 1
    assert not of.checkpointed
    assert torch.allclose(gradient(of, batch()), whole, rtol=1e-4, atol=1e-6 * whole.abs().max().item())


@pytest.mark.parametrize("is_checkpointed", [True, False])
def test_peak_memory_is_foreseen_with_and_without_running_layers_twice(tmp_path: Path, is_checkpointed: bool) -> None:
    model_path = save_model(tmp_path, hidden=128, layers=8, vocabulary=512)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        metrics, plain = fresh.submit(step_in_fresh_process, model_path, is_checkpointed).result()

    assert (metrics["micro_batches"], metrics["checkpointed"]) == (1, is_checkpointed)
    assert 0.5 < metrics["peak_step_mb"] / metrics["peak_step_predicted_mb"] < 1.4
    assert (metrics["peak_step_mb"] < 0.4 * plain / 2**20) == is_checkpointed
    assert metrics["peak_mb"] > metrics["peak_step_mb"]
