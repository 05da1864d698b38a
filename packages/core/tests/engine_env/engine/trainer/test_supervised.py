"""Supervised steps: cross-entropy of the given tokens, weights that learn them, and runs that start from the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_trainer import LOSS, POLICY, SESSIONS, VOCABULARY, request, save_model
from torch.nn import functional

from woodshed.engine.trainer.batch import build_batch
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.supervised import evaluation, supervised_step
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.loss.sft import sft_loss
from woodshed.types import LoraSettings, Objective, OptimizerSettings, StepReport

FAST = POLICY.model_copy(update={"optimizer": OptimizerSettings(learning_rate=1e-2, warmup_steps=0), "loss": LOSS})
BATCH = build_batch(request("s", dict.fromkeys(SESSIONS, 1.0)), SESSIONS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("model"))


def started(model: str, home: Path, **changes: object) -> PolicyRun:
    return PolicyRun(Start(model_path=model, home=str(home), policy=FAST.model_copy(update=changes), parent_pid=1))


def take(run: PolicyRun, step_id: str, objective: Objective, weight: float = 1.0) -> StepReport:
    asked = request(step_id, dict.fromkeys(SESSIONS, weight)).model_copy(update={"objective": objective})
    return run.step(Step(request=asked, sessions=SESSIONS))


def weights(run: PolicyRun) -> list[torch.Tensor]:
    return [p.detach().clone() for p in run.policy.parameters]


def test_the_loss_is_plain_cross_entropy_however_it_is_cut() -> None:
    logits = torch.randn(12, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    words = torch.arange(12) % 7

    whole = functional.cross_entropy(logits, words)
    logprobs = logits.log_softmax(-1)[torch.arange(12), words]
    parts = [sft_loss(part, torch.ones(len(part)), tokens=12) for part in (logprobs[:5], logprobs[5:])]

    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    torch.testing.assert_close(
        torch.autograd.grad(torch.stack(parts).sum(), logits, retain_graph=True), torch.autograd.grad(whole, logits)
    )


def test_a_step_on_packed_conversations_has_the_loss_of_the_rows_one_by_one(model: str, tmp_path: Path) -> None:
    run = started(model, tmp_path)
    rows = [row for rollout in BATCH.rollouts for row in rollout.rows]
    losses = []
    for row in rows:
        ids = torch.tensor(row.token_ids)
        with torch.no_grad():
            found = run.policy.model(ids[None]).logits[0].float()
        at = torch.tensor([k for k, is_trained in enumerate(row.trained) if is_trained])
        losses.append(functional.cross_entropy(found[at - 1], ids[at], reduction="none"))

    metrics = supervised_step(run.runner, BATCH, 0)

    expected = torch.cat(losses).mean().item()
    assert metrics["nll"] == pytest.approx(expected, rel=1e-4)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["trained_tokens"] == len(torch.cat(losses)) == BATCH.tokens


def test_what_is_learnt_becomes_likely_and_a_repeated_step_is_answered_from_the_checkpoint(
    model: str, tmp_path: Path
) -> None:
    run = started(model, tmp_path)

    reports = [take(run, f"s{k}", "supervised") for k in range(6)]

    assert reports[-1].metrics["nll"] < reports[0].metrics["nll"] - 0.3
    assert [r.version for r in reports] == [1, 2, 3, 4, 5, 6]
    assert take(started(model, tmp_path), "s0", "supervised") == reports[0]


def test_an_evaluation_changes_nothing_and_is_not_remembered(model: str, tmp_path: Path) -> None:
    run = started(model, tmp_path)
    before, kept = weights(run), run.position

    first, second = take(run, "look", "evaluate"), take(run, "look", "evaluate")

    assert first.metrics == second.metrics and not first.trained and first.version == 0
    assert run.position == kept and all(torch.equal(a, b) for a, b in zip(before, weights(run), strict=True))
    assert first.metrics["nll"] == pytest.approx(torch.tensor(VOCABULARY).log().item(), rel=0.3)


def test_an_evaluation_measures_the_drift_of_tokens_of_this_version_alone(model: str, tmp_path: Path) -> None:
    run = started(model, tmp_path)

    same, other = evaluation(run.runner, BATCH, 0), evaluation(run.runner, BATCH, 3)

    assert 0 < same["logprob_drift_fresh"] <= same["logprob_drift_max"]
    assert not any("drift" in name for name in other)


def test_a_run_starts_from_what_another_learnt_as_version_1(model: str, tmp_path: Path) -> None:
    first = started(model, tmp_path / "first")
    for k in range(3):
        take(first, f"s{k}", "supervised")
    adapter = str(first.checkpoints.path(3) / "adapter")

    second = started(model, tmp_path / "second", adapter=adapter)

    assert second.state.version == 1 and second.state.steps == ()
    assert take(second, "look", "evaluate").metrics["nll"] == pytest.approx(
        take(first, "look", "evaluate").metrics["nll"], rel=1e-5
    )
    shutil.rmtree(tmp_path / "first")
    assert started(model, tmp_path / "second", adapter=adapter).state.version == 1  # found again from its checkpoint


@pytest.mark.parametrize(("change", "said"), [("rank", "rank 16"), ("alpha", "alpha 32"), ("gone", "no LoRA to start")])
def test_a_lora_made_otherwise_or_missing_is_refused(model: str, tmp_path: Path, change: str, said: str) -> None:
    first = started(model, tmp_path / "first")
    adapter = first.checkpoints.path(0) / "adapter"
    lora = {"rank": LoraSettings(rank=4, alpha=32), "alpha": LoraSettings(alpha=8)}.get(change, LoraSettings())
    if change == "gone":
        (adapter / "adapter_model.safetensors").unlink()

    with pytest.raises(TrainError, match=said):
        started(model, tmp_path / "second", adapter=str(adapter), lora=lora)


def test_a_loss_that_is_not_finite_takes_no_step(model: str, tmp_path: Path) -> None:
    run = started(model, tmp_path)
    before = weights(run)

    with pytest.raises(TrainError, match="the loss is"):
        take(run, "s", "supervised", weight=1e39)

    assert all(torch.equal(a, b) for a, b in zip(before, weights(run), strict=True))
    assert json.loads((tmp_path / "checkpoints" / "00000" / "position.json").read_text())["reports"] == []
