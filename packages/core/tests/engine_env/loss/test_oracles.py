"""Every preset against the loss functions of others on the same tensors. Needs the dependency group `oracle`."""

from __future__ import annotations

import importlib.util

import pytest
from oracles import CASES, LIMIT, MODULES, ORACLES, head_difference, ours, world

from woodshed.loss.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore")  # what the others' imports warn of is not ours to mend


def needs(oracle: str) -> None:
    if importlib.util.find_spec(MODULES[oracle]) is None:
        pytest.skip(f"{MODULES[oracle]} is not installed; `make oracle` brings it")


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_the_oracle(name: str, oracle: str) -> None:
    needs(oracle)
    from oracles import difference

    found = difference(name, oracle)
    if found.why_none is not None:
        pytest.skip(found.why_none)

    assert found.loss <= LIMIT
    assert found.gradient <= LIMIT


def test_fused_head_equals_liger() -> None:
    needs("Liger")
    found = head_difference()

    assert found.loss <= LIMIT
    assert found.gradient <= LIMIT


def test_every_preset_has_oracles() -> None:
    assert {case.settings.preset for case in CASES.values()} == set(PRESETS)


@pytest.mark.parametrize("name", ["grpo", "bnpo", "dr_grpo", "dapo", "gspo"])
def test_the_tensors_clip_some_tokens_and_not_others(name: str) -> None:
    w = world(CASES[name].drift, CASES[name].seed)
    _, gradient = ours(CASES[name], w)

    assert 0 < int((gradient[w.mask_BT] == 0).sum()) < int(w.mask_BT.sum())
