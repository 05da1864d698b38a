"""What a person sees while the rollouts of one step run and another is trained."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from woodshed.training.report.progress import RunProgress

ROW: dict[str, Any] = {
    "step": 0, "reward": 0.5, "masked": 0, "unjudged_groups": 0, "stale_groups": 0, "extra_groups": 0, "trained": True,
    "version": 1, "rollouts": 4, "rollout_s": 1.0, "tokens_per_s": 90.0, "train_s": 0.1,
}  # fmt: skip


def _progress(terminal: bool = True) -> tuple[RunProgress, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=140, color_system=None)
    return RunProgress(folder=Path("run"), steps=3, console=console), text


def test_the_live_line_tells_the_step_in_hand_from_the_rollouts_ahead_of_it() -> None:
    progress, text = _progress()
    with progress:
        progress.rollouts_started(0, 4)
        progress.rollouts_started(1, 4)
        for _ in range(4):
            progress.rollout_done(0)
        progress.group_judged(0)
        progress.rollout_done(1)
        progress.training_started(0)

    assert "step 1/3: training; step 2: 1/4" in text.getvalue()


def test_when_a_step_is_taken_the_next_one_is_in_hand() -> None:
    progress, text = _progress()
    with progress:
        progress.rollouts_started(0, 4)
        progress.rollouts_started(1, 4)
        progress.step_done(ROW)
        progress.rollout_done(1)

    assert "step 2/3: rollouts, 0 groups judged" in text.getvalue()


def test_a_printed_step_says_what_was_dropped_and_what_was_drawn() -> None:
    progress, text = _progress(terminal=False)
    with progress:
        progress.step_done({**ROW, "stale_groups": 2, "extra_groups": 3})

    assert "stale groups 2  further groups 3" in text.getvalue()


@pytest.mark.parametrize(
    ("error", "said"), [(asyncio.CancelledError(), "stopped;"), (KeyError(), "stopped (KeyError);")]
)
def test_a_run_that_ends_early_says_that_nothing_is_lost(error: BaseException, said: str) -> None:
    progress, text = _progress(terminal=False)
    with pytest.raises(type(error)), progress:
        raise error

    assert f"{said} finished work is kept" in text.getvalue()


@pytest.mark.parametrize(("fresh", "advice"), [(False, "Run the same command again to"), (True, "without --fresh")])
def test_a_run_that_is_stopped_says_how_to_resume_this_one(fresh: bool, advice: str) -> None:
    text = io.StringIO()
    console = Console(file=text, width=400)

    with pytest.raises(KeyboardInterrupt), RunProgress(folder=Path("run"), steps=3, fresh=fresh, console=console):
        raise KeyboardInterrupt

    assert advice in text.getvalue() and "resume from run" in text.getvalue()
    assert ("command again" in text.getvalue()) != fresh
