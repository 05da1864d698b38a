"""A tracker gets everything of a run once, in order, and goes on where it stopped, whatever went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tracked_runs import begin, finish, measure, take_step, whole_run

from woodshed.training.track.feed import Feed
from woodshed.training.track.position import position_file, read_position
from woodshed.training.track.tracker import Opened, TrackedRun


class Kept:
    """A tracker that keeps what it gets; `fails_at` is the number of the call of `log` that raises once."""

    def __init__(self, tracked_id: str = "t1", fails_at: int | None = None) -> None:
        self.tracked_id, self.fails_at = tracked_id, fails_at
        self.runs: list[TrackedRun] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.warnings: list[str] = []
        self.summary: Mapping[str, Any] | None = None
        self.closed = 0

    def open(self, run: TrackedRun) -> Opened:
        self.runs.append(run)
        return Opened(tracked_id=self.tracked_id, where="here")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if len(self.rows) == self.fails_at:
            self.fails_at = None
            raise ConnectionError("gone")
        self.rows.append((step, dict(values)))

    def warn(self, texts: Sequence[str], new: int) -> None:
        self.warnings += texts[len(texts) - new :]

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self.summary, self.closed = summary, self.closed + 1


def feed(tracker: Kept, folder: Path) -> Feed:
    return Feed("kept", tracker, folder, lambda opened: None)


def sent(tracker: Kept) -> list[tuple[int, float]]:
    return [(step, values.get("reward", values.get("held_out/success", -1))) for step, values in tracker.rows]


WHOLE = [(0, 0.3), (1, 0.25), (2, 0.5), (2, 0.6), (3, 0.75), (3, 0.9)]


def test_rows_and_evaluations_come_in_the_order_in_which_they_happened(tmp_path: Path) -> None:
    whole_run(tmp_path).close()
    tracker = Kept()
    feed(tracker, tmp_path).finish()

    assert sent(tracker) == WHOLE
    assert tracker.rows[0][1] == {
        "held_out/success": 0.3, "held_out/success_low": pytest.approx(0.2), "held_out/success_high": 0.4,
        "held_out/rollouts": 10, "held_out/failed": 0, "held_out/masked": 0,
    }  # fmt: skip
    assert tracker.rows[1][1] == {"reward": 0.25, "rollouts": 8, "trained": 1, "train/kl": 0, "version": 1}
    assert tracker.warnings == ["the judge is slow"]
    assert tracker.summary == {"success_after": 0.9, "engine": "vLLM", "warnings": []}
    assert tracker.runs[0].config["policy"] == {"model": "m", "lora": {"rank": 8}}


@pytest.mark.parametrize("fails_at", range(6))
def test_what_failed_is_sent_by_the_next_try_and_nothing_twice(tmp_path: Path, fails_at: int) -> None:
    whole_run(tmp_path).close()
    tracker = Kept(fails_at=fails_at)
    trying = feed(tracker, tmp_path)
    with pytest.raises(ConnectionError):
        trying.finish()
    trying.finish()

    assert sent(tracker) == WHOLE
    assert (tracker.closed, len(tracker.runs)) == (1, 1)


@pytest.mark.parametrize("fails_at", [None, 0, 3])
def test_a_resumed_run_goes_on_in_the_same_tracked_run(tmp_path: Path, fails_at: int | None) -> None:
    store, first = begin(tmp_path), Kept(fails_at=fails_at)
    measure(store, "before", 0.3)
    take_step(store, 0)
    take_step(store, 1)
    measure(store, "after_step_2", 0.6)
    try:
        feed(first, tmp_path).finish()
    except ConnectionError:
        assert fails_at is not None
    take_step(store, 2)
    measure(store, "after", 0.9)
    finish(store)
    second = Kept()
    feed(second, tmp_path).finish()

    assert sent(first) + sent(second) == WHOLE
    assert first.summary is None and second.summary is not None
    assert [run.kept_id for run in first.runs + second.runs] == [None, "t1"]


def test_a_finished_run_with_more_steps_keeps_what_was_measured_at_its_old_end(tmp_path: Path) -> None:
    store, tracker = whole_run(tmp_path), Kept()
    feed(tracker, tmp_path).finish()
    store.reopen()
    take_step(store, 3)
    measure(store, "after", 0.95)
    finish(store)
    feed(tracker, tmp_path).finish()

    assert sent(tracker) == [*WHOLE, (4, 0.25), (4, 0.95)]
    assert read_position(tmp_path, "kept").finished_steps == 4


def test_a_tracked_run_that_is_gone_is_sent_whole_again(tmp_path: Path) -> None:
    whole_run(tmp_path).close()
    feed(Kept("t1"), tmp_path).finish()
    anew = Kept("t2")
    feed(anew, tmp_path).finish()

    assert sent(anew) == WHOLE
    assert read_position(tmp_path, "kept").tracked_id == "t2"


def test_a_damaged_position_sends_everything_again(tmp_path: Path) -> None:
    whole_run(tmp_path).close()
    feed(Kept(), tmp_path).finish()
    position_file(tmp_path, "kept").write_text('{"steps": 3')
    anew = Kept()
    feed(anew, tmp_path).finish()

    assert sent(anew) == WHOLE
    assert anew.runs[0].kept_id is None


def test_numbers_that_are_not_known_are_left_out_and_infinite_ones_are_sent(tmp_path: Path) -> None:
    store, tracker = begin(tmp_path), Kept()
    take_step(store, 0, reward=None, note="text", **{"train/loss": float("inf")})
    feed(tracker, tmp_path).send()

    assert tracker.rows == [(1, {"rollouts": 8, "trained": 1, "train/kl": 0, "version": 1, "train/loss": float("inf")})]
