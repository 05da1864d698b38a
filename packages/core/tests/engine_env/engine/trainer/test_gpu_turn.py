"""A policy that leaves its device between steps trains exactly as one that stays."""

from __future__ import annotations

import pytest
import torch

from woodshed.engine.trainer.gpu_turn import GpuTurn
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.types import OpenPolicy

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def loss(policy: LoraPolicy) -> torch.Tensor:
    ids = torch.arange(8, device=policy.device)[None]
    return policy.model(input_ids=ids, labels=ids).loss


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_the_same_and_frozen_weights_are_away_in_between(model_path: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch finds none")
    found: dict[bool, list[float]] = {}
    for leaves in (False, True):
        policy = LoraPolicy(model_path, OpenPolicy(name="policy"))
        frozen = next(p for p in policy.model.parameters() if not p.requires_grad)
        turn = GpuTurn(policy.model, policy.device, leaves=leaves)
        found[leaves] = []
        for version in range(3):
            away = frozen.data_ptr()
            assert frozen.device.type == ("cpu" if leaves else policy.device.type)
            with turn.taken():
                assert frozen.device.type == policy.device.type
                value = loss(policy)
                value.backward()
                policy.update(version)
                policy.optimizer.zero_grad(set_to_none=True)
            assert frozen.data_ptr() == away  # one copy in main memory, made once
            found[leaves].append(value.item())

    assert found[True] == found[False]
    assert found[True][0] != found[True][2]


def test_tied_weights_stay_tied_and_lora_stays_where_it_is(model_path: str) -> None:
    policy = LoraPolicy(model_path, OpenPolicy(name="policy"))
    where = [p.data_ptr() for p in policy.parameters]
    turn = GpuTurn(policy.model, policy.device, leaves=True)
    with turn.taken():
        inputs, outputs = policy.model.get_input_embeddings().weight, policy.model.get_output_embeddings().weight

    assert (inputs is outputs) == bool(policy.model.config.tie_word_embeddings)
    assert [p.data_ptr() for p in policy.parameters] == where
