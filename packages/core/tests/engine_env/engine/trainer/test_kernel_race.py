"""Promises of the race between the kernels along the tree: the faster one is used, and one that fails loses."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoConfig

from woodshed.engine.trainer import kernel_race, step
from woodshed.engine.trainer.attention.tree import TreePlan
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.kernel_race import Heads, faster_mode
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.tokens import pack_rows
from woodshed.types import OpenPolicy

CPU = torch.device("cpu")
HEADS = Heads(queries=4, keys=2, size=8)


def plan() -> TreePlan:
    (pack,) = pack_rows([(1,) * 30 + (k,) * 8 for k in range(2, 6)], token_budget=10_000)
    return TreePlan(segments=pack.segments(), device=CPU, kernel="paths")


@pytest.mark.parametrize(("paths_s", "flex_s", "expected"), [(0.002, 0.004, "tree"), (0.004, 0.002, "flex")])
def test_faster_kernel_is_used_and_both_times_are_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    paths_s: float,
    flex_s: float,
    expected: ForwardMode,
) -> None:
    seconds = {"paths": paths_s, "flex": flex_s}
    monkeypatch.setattr(kernel_race, "_seconds", lambda plan, heads, dtype: seconds[plan.kernel])
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert faster_mode(plan(), HEADS, torch.float32) == expected

    assert (
        f"'tree' takes {1e3 * paths_s:.2f} ms, 'flex' takes {1e3 * flex_s:.2f} ms; {expected!r} is used" in caplog.text
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_kernel_that_does_not_run_loses_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    # FlexAttention has no backward pass on a CPU.
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert faster_mode(plan(), HEADS, torch.float32) == "tree"

    assert "the mode 'flex' cannot be timed (" in caplog.text


def test_step_goes_on_in_the_faster_mode_after_one_race(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_trainer import SESSIONS, numbered

    from woodshed.engine.trainer.batch import build_batch

    runner = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p")))
    raced: list[int] = []

    def race(longest: TreePlan, heads: Heads, dtype: torch.dtype) -> ForwardMode:
        raced.append(longest.segments[-1].stop)
        return "flex"

    monkeypatch.setattr(step, "faster_mode", race)
    runner._may_race = True
    batch = build_batch(numbered(0), SESSIONS)
    first, second = runner.micro_batches(batch), runner.micro_batches(batch)

    assert len(raced) == 1
    assert runner.mode == "flex"
    assert {part.plan.kernel for part in (*first, *second) if part.plan is not None} == {"flex"}


def test_heads_are_those_of_the_model(model_path: str) -> None:
    assert Heads.of(AutoConfig.from_pretrained(model_path)) == Heads(queries=4, keys=2, size=8)
