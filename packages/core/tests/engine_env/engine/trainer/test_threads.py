"""Promises of the thread count: a tiny step runs on one thread, a large one on all there are."""

from __future__ import annotations

import pytest
import torch
from tiny_trainer import SESSIONS, numbered

from woodshed.engine.trainer.batch import build_batch
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.engine.trainer.threads import threads_worth
from woodshed.types import LossSettings, OpenPolicy


def test_threads_grow_with_the_work_up_to_those_available() -> None:
    assert threads_worth(1_000, 600_000, 8) == 1
    assert threads_worth(3_000, 6_000_000, 8) == 5
    assert threads_worth(8_000, 500_000_000, 8) == 8
    assert threads_worth(0, 1, 8) == 1


def test_a_tiny_step_runs_on_one_thread(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    try:
        of = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", loss=LossSettings(drift_stop=1e9))))
        of.take(build_batch(numbered(1), SESSIONS), 0)
        tiny = torch.get_num_threads()
        monkeypatch.setattr("woodshed.engine.trainer.threads._WORTH_A_THREAD", 1.0)
        of.take(build_batch(numbered(1), SESSIONS), 1)

        assert (tiny, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(1)
