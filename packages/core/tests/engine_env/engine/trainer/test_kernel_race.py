"""Promises of the race between the kernels along the tree: the faster one is used, and one that fails loses."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import (
    current_flash_attention_impl,
    register_flash_attention_impl,
    restore_flash_attention_impl,
)
from torch.nn.attention._registry import _FLASH_ATTENTION_IMPLS
from transformers import AutoConfig

from woodshed.engine.trainer import kernel_race, step
from woodshed.engine.trainer.attention.tree import TreePlan
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.kernel_race import Heads, faster_mode
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.tokens import pack_rows
from woodshed.types import OpenPolicy

CPU, ONE = torch.device("cpu"), torch.ones(1)
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
    monkeypatch.setattr(kernel_race, "_run", lambda plan, *_: kernel_race._Run(seconds[plan.kernel], (ONE,)))
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


@pytest.fixture
def installed() -> Iterator[list[str]]:
    """Register a flash attention with torch; return what was done with it."""
    done: list[str] = []

    class Handle:
        def remove(self) -> None:
            done.append("removed")

    def register() -> Handle:
        done.append("used")
        return Handle()

    register_flash_attention_impl("FA9", register_fn=register)
    yield done
    restore_flash_attention_impl(_raise_warn=False)
    _FLASH_ATTENTION_IMPLS.pop("FA9")


@pytest.mark.parametrize(
    ("seconds", "result", "used"), [(0.001, 1.01, True), (0.003, 1.0, False), (0.001, 1.1, False)],
    ids=["faster", "slower", "wrong"],
)  # fmt: skip
def test_an_installed_flash_attention_is_used_where_it_is_faster_and_right(
    installed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    result: float,
    used: bool,
) -> None:
    def run(plan: TreePlan, *_: object) -> kernel_race._Run:
        if current_flash_attention_impl() == "FA9":
            return kernel_race._Run(seconds, (result * ONE,))
        return kernel_race._Run({"paths": 0.002, "flex": 0.004}[plan.kernel], (ONE,))

    monkeypatch.setattr(kernel_race, "_run", run)
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert faster_mode(plan(), HEADS, torch.float32) == "tree"

    assert current_flash_attention_impl() == ("FA9" if used else None)
    assert installed == (["used", "removed", "used"] if used else ["used", "removed"])
    assert ("'tree by FA9' is used" in caplog.text) == used
    assert ("FA9 is not used (its results are off by 0.1 of their size, 0.03 is allowed)" in caplog.text) == (
        result == 1.1
    )
    # torch registers FA3 and FA4 by itself; neither is installed here.
    assert "FA4 is not used (ModuleNotFoundError: No module named 'flash_attn" in caplog.text


def test_a_flash_attention_that_fails_leaves_torchs_own_in_use(
    installed: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(plan: TreePlan, *_: object) -> kernel_race._Run:
        if current_flash_attention_impl() == "FA9":
            raise OSError("no compiler here\nwhatever else")
        return kernel_race._Run(0.002, (ONE,))

    monkeypatch.setattr(kernel_race, "_run", run)
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert faster_mode(plan(), HEADS, torch.float32) == "tree"

    assert current_flash_attention_impl() is None
    assert "FA9 is not used (OSError: no compiler here)" in caplog.text
    # Whoever installed it is warned; torch names two more, which are not installed.
    assert [one.args[0] for one in caplog.records if one.levelno == logging.WARNING and one.args] == ["FA9"]


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
