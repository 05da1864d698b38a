"""Promises of a step's memory on a GPU: foreseen within a quarter, and layers run twice only where they must.

A GPU's count of bytes is kept on a CPU by following every operator's tensors; the step is the GPU's, with its plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from live_bytes import peak_of
from random_trees import ARCHITECTURES, model, one_at_a_time, packed, tree
from tiny_trainer import group, request, save_model

from woodshed.engine.trainer import step as step_module
from woodshed.engine.trainer.attention import path_attention
from woodshed.engine.trainer.attention.decoder import Checkpointed
from woodshed.engine.trainer.batch import build_batch
from woodshed.engine.trainer.memory import memory_model
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.types import LossSettings, OpenPolicy, SealedSession

CPU = torch.device("cpu")
WAYS: tuple[Checkpointed, ...] = (False, "selective", True)
BATCHES = {
    "shared": lambda v: group("a", size=8, prompt=600, turns=1, length=150, vocabulary=v),
    "turns": lambda v: group("a", size=6, prompt=200, turns=5, length=40, vocabulary=v),
    "many short answers": lambda v: group("a", size=40, prompt=500, turns=1, length=12, vocabulary=v),
    "one long rollout": lambda v: group("a", size=1, prompt=900, turns=1, length=30, vocabulary=v),
}


def runner(folder: Path, vocabulary: int, dtype: torch.dtype) -> StepRunner:
    path = save_model(folder, hidden=128, layers=6, vocabulary=vocabulary)
    policy = LoraPolicy(path, OpenPolicy(name="p", loss=LossSettings(drift_stop=1e9)))
    for name, parameter in policy.model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(dtype)
    found = StepRunner(policy)
    found.memory = memory_model(policy.model, found.vocabulary, found.mode, CPU, peak_of)
    return found


@pytest.mark.usefixtures("over_paths")
@pytest.mark.parametrize(("vocabulary", "dtype"), [(512, torch.float32), (20_000, torch.bfloat16)], ids=str)
def test_peak_is_foreseen_within_a_quarter(tmp_path: Path, vocabulary: int, dtype: torch.dtype) -> None:
    of = runner(tmp_path, vocabulary, dtype)
    found: dict[tuple[str, Checkpointed], float] = {}
    for name, sessions in BATCHES.items():
        rollouts: dict[str, SealedSession] = sessions(vocabulary)
        batch = build_batch(request("s", {rollout: 0.5 for rollout in rollouts}), rollouts)
        parts = of.micro_batches(batch)
        for way in WAYS:
            of.checkpointed = way
            foreseen = max(of.memory.predicted(part, checkpointed=of.checkpointed) for part in parts)
            of.policy.optimizer.zero_grad(set_to_none=True)
            found[name, of.checkpointed] = (
                peak_of(lambda parts=parts, batch=batch: of.accumulate(batch, parts)) / foreseen
            )

    assert {key: ratio for key, ratio in found.items() if not 0.75 <= ratio <= 1.25} == {}


@pytest.mark.usefixtures("over_paths")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_keep_their_attention_train_the_same_and_attend_once(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attended: list[int] = []
    plain = path_attention._attended

    def counted(query: Any, *rest: Any) -> Any:
        attended.append(len(query))
        return plain(query, *rest)

    of = model(architecture)
    counts = {}
    for checkpointed in (True, "selective"):
        for seed in range(6):
            rows = tree(seed)
            expected, gradient = one_at_a_time(of, rows)
            found, along = packed(of, rows, "tree", 10_000, checkpointed)

            assert found == pytest.approx(expected, abs=2e-5)
            assert (along - gradient).norm() <= 2e-5 * gradient.norm()
        with monkeypatch.context() as counting:
            counting.setattr(path_attention, "_attended", counted)
            attended.clear()
            packed(of, tree(3), "tree", 10_000, checkpointed)
            counts[checkpointed] = len(attended)

    # Of three layers two are run again.
    assert 3 * counts[True] == 5 * counts["selective"]


@pytest.mark.usefixtures("over_paths")
def test_layers_run_twice_only_as_far_as_memory_demands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = runner(tmp_path, 512, torch.float32)
    rollouts = BATCHES["one long rollout"](512)
    batch = build_batch(request("s", {name: 0.5 for name in rollouts}), rollouts)
    monkeypatch.setattr(of, "_ways_to_fit", lambda: (False, "selective", True))
    monkeypatch.setattr(step_module, "return_freed_memory", lambda: None)
    monkeypatch.setattr(step_module, "_MIN_PACK", 1)
    longest = sum(1 for _ in of.micro_batches(batch)[0].input_ids_BN[0])
    fits: dict[Checkpointed, float] = {}
    for way in (False, "selective", True):
        low, high = 0.0, 2.0**36
        while high - low > 1024:
            middle = (low + high) / 2
            low, high = (
                (low, middle) if of.memory.max_positions(middle, checkpointed=way) >= longest else (middle, high)
            )
        fits[way] = high
    chosen = {}
    for way, needed in fits.items():
        monkeypatch.setattr(step_module, "available_bytes", lambda device, needed=needed: 1.001 * needed)
        of.micro_batches(batch)
        chosen[way] = of.checkpointed

    assert fits[False] > fits["selective"] > fits[True]
    assert chosen == {False: False, "selective": "selective", True: True}
