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


LONG = (
    "no model call was recorded in any rollout, with a list [1, 2] and ['/bold'] in it: the agent does not reach the "
    "policy. Is its framework's adapter on, or does its client use the base URL? This is the advice at the end"
)


@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_warning_is_shown_whole_however_narrow_the_terminal(width: int, terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None, soft_wrap=True)
    RunProgress(folder=Path("run"), steps=3, console=console).warn([LONG])

    lines = [line.strip("│╭╮╰╯─ ") for line in text.getvalue().splitlines()]
    assert LONG in " ".join(line for line in lines if line)
    assert not terminal or max(map(len, text.getvalue().splitlines())) <= width


@pytest.mark.parametrize("terminal", [True, False])
def test_what_runs_before_the_first_step_is_shown_with_its_seconds(terminal: bool) -> None:
    progress, text = _progress(terminal)
    with progress:
        with progress.phase("loading the policy to train"):
            during = text.getvalue()
        progress.evaluation_started("before", 4)
        progress.rollouts_started(0, 8)
        for _ in range(8):
            progress.rollout_done(0)

    assert "loading the policy to train: 0.0 s" in text.getvalue()
    if not terminal:
        assert "loading the policy to train …" in during
        assert "held-out scenarios, before: 4 rollouts …" in text.getvalue()
        assert [f"step 1/3: {n}/8 rollouts" in text.getvalue() for n in (1, 2, 4, 6, 8)] == [False, *[True] * 4]


@pytest.mark.parametrize("is_done", [False, True])
def test_an_evaluation_between_steps_is_shown_with_what_is_prefetched_beside_it(is_done: bool) -> None:
    progress, text = _progress()
    with progress:
        progress.rollouts_started(0, 4)
        progress.rollouts_started(1, 4)
        progress.step_done(ROW)
        progress.evaluation_started("after step 1", 10)
        progress.advance()
        progress.rollout_done(1)
        if is_done:
            progress.evaluation_done("after step 1", 0.7, "7 of 10", (0.397, 0.892))
            progress.rollout_done(1)

    shown = text.getvalue()
    assert ("held-out scenarios, after step 1; step 2: 1/4" in shown) != is_done
    assert ("step 2/3: rollouts, 0 groups judged" in shown) == is_done
    assert ("held-out success after step 1: 0.700, 7 of 10, 95 % interval 0.397 to 0.892" in shown) == is_done
