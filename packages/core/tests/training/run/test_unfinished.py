"""For whoever looks at a run: which rollouts wait, which run, and since when; a stored one is neither."""

from __future__ import annotations

import time
from pathlib import Path

from builders import call, said, trajectory

from woodshed.training.run.read_store import ReadStore
from woodshed.training.run.store import RunStore


def unfinished(folder: Path) -> dict[str, tuple[str | None, bool]]:
    """Return slot → rollout id and whether it runs."""
    with ReadStore(folder) as store:
        now = time.time()
        rows = store.rows("SELECT slot, rollout_id, waiting_s, started_s FROM unfinished")
    assert all(
        now - 60 < s <= now for _, _, waiting_s, started_s in rows for s in (waiting_s, started_s) if s is not None
    )
    return {slot: (rollout_id, started_s is not None) for slot, rollout_id, _, started_s in rows}


def test_a_rollout_waits_runs_and_is_stored(tmp_path: Path) -> None:
    store = RunStore(tmp_path)

    store.rollout_waits("0/s/0")
    store.rollout_waits("0/s/1")
    assert unfinished(tmp_path) == {"0/s/0": (None, False), "0/s/1": (None, False)}

    store.rollout_runs("0/s/0", "r")
    assert unfinished(tmp_path) == {"0/s/0": ("r", True), "0/s/1": (None, False)}

    store.save_trajectory("0/s/0", trajectory("r", call(said("done"))))
    assert unfinished(tmp_path) == {"0/s/1": (None, False)}
    store.close()


def test_a_rollout_that_is_run_again_waits_again(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.rollout_waits("0/s/0")
    store.rollout_runs("0/s/0", "lost")

    store.rollout_waits("0/s/0")

    assert unfinished(tmp_path) == {"0/s/0": (None, False)}
    store.close()


def test_rollouts_to_come_are_no_finished_ones(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.rollout_waits("0/s/0")

    assert store.trajectory("0/s/0") is None
    assert store.set_aside(0) == 0
    store.close()
