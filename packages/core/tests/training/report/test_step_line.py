"""What is printed of a step, and how long the run still takes."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import woodshed
from woodshed.training.report.progress import RunProgress
from woodshed.training.report.step_line import duration, score_name

ROW: dict[str, Any] = {
    "step": 0, "reward": 0.5, "masked": 3, "unjudged_groups": 1, "stale_groups": 2, "extra_groups": 4, "trained": False,
    "version": 1, "rollouts": 96, "rollout_s": 112.3, "tokens_per_s": 1234.0, "train_s": 12.1,
}  # fmt: skip


class Custom:
    name, asks_engine = "mine", False

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        return woodshed.Judgement(scores=())


@pytest.mark.parametrize(
    ("reward", "name"),
    [
        (woodshed.Ruler(judge="m"), "judge's score"),
        (woodshed.FunctionReward(lambda t: 1.0), "reward"),
        (woodshed.Blend((1.0, woodshed.Ruler(judge="m")), (1.0, woodshed.FunctionReward(lambda t: 1.0))), "reward"),
        (Custom(), "reward"),
    ],
)
def test_a_score_is_called_what_it_is(reward: Any, name: str) -> None:
    assert score_name(reward) == name


def printed(width: int, *, terminal: bool = True, **settings: Any) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, color_system=None, soft_wrap=True)
    progress = RunProgress(folder=Path("run"), steps=3, console=console, **settings)
    progress.rollouts_started(0, 96)
    progress.step_done(ROW)
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("scored", ["judge's score", "reward"])
def test_a_step_is_wrapped_between_its_fields_on_a_terminal(width: int, scored: str) -> None:
    lines = printed(width, scored=scored)

    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"step 1/3  {scored} 0.500  LoRA v1 (nothing to train)")
    whole = "  ".join(line.strip() for line in lines)
    assert "96 rollouts in 112.3 s (1234 tokens/s)  trained in 12.1 s  masked 3" in whole
    assert "stale groups 2  further groups 4" in whole


def test_a_step_is_one_line_in_a_log() -> None:
    (line,) = printed(80, terminal=False, scored="reward")

    assert "groups without reward 1" in line and "judge" not in line


def test_a_step_says_how_long_the_run_still_takes_and_the_last_one_does_not() -> None:
    text = io.StringIO()
    progress = RunProgress(folder=Path("run"), steps=3, console=Console(file=text, width=400))
    for step in (0, 1, 2):
        progress.rollouts_started(step, 1)
        progress.step_done({**ROW, "step": step})

    assert ["left" in line for line in text.getvalue().splitlines()] == [True, True, False]


def test_a_step_of_an_earlier_life_tells_no_time() -> None:
    text = io.StringIO()
    progress = RunProgress(folder=Path("run"), steps=3, console=Console(file=text, width=400))
    progress.step_done(ROW)

    assert "left" not in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "about 5 s"), (41, "about 40 s"), (90, "about 2 min"), (700, "about 12 min"), (9000, "about 2.5 h")],
)
def test_a_time_is_as_rough_as_it_is_sure(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_run_that_has_nothing_to_print_says_what_it_does() -> None:
    text = _Text()
    progress = RunProgress(folder=Path("run"), steps=3, console=Console(file=text, width=400), silence_s=0.04)
    with progress, progress.phase("loading the policy to train"):
        text.waits_for("loading the policy to train … (at 0 s)")
    with RunProgress(folder=Path("run"), steps=3, console=Console(file=text, width=400), silence_s=0.04) as progress:
        progress.rollouts_started(0, 8)
        progress.rollout_done(0)
        text.waits_for("step 1/3: rollouts, 0 groups judged, 1/8 (at 0 s)")


class _Text(io.StringIO):
    """Text that another thread writes."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def waits_for(self, part: str) -> None:
        with self._written:
            assert self._written.wait_for(lambda: part in self.getvalue(), timeout=30), self.getvalue()


def test_a_quiet_run_prints_nothing_and_leaves_its_warnings_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, quiet=True)
    with caplog.at_level(logging.WARNING, "woodshed.training"):
        with RunProgress(folder=Path("run"), steps=3, console=console) as progress:
            progress.engine("starting")
            progress.warn(["the judge is slow"])
            progress.step_done(ROW)

    assert text.getvalue() == ""
    assert [r.getMessage() for r in caplog.records] == ["the judge is slow"]


def test_the_live_line_goes_on_while_all_rollouts_are_done_and_groups_are_judged() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with RunProgress(folder=Path("run"), steps=3, console=console) as progress:
        progress.rollouts_started(0, 1)
        progress.rollout_done(0)
        (line,) = progress._bars.tasks
        assert not line.finished
        with progress.phase("stopping the engine"):
            assert line.total is None
