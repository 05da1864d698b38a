"""What failed as a whole is put away, so that the same command samples it anew; nothing else is touched."""

from __future__ import annotations

from pathlib import Path

from woodshed.training.run.store import RunStore
from woodshed.types import Judgement, Trajectory


def test_a_step_or_an_evaluation_is_put_away_and_no_other(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    slots = ("1/s/0", "11/s/0", "before/s/0", "after/s/0", "after/s/1")
    for slot in slots:
        store.save_trajectory(slot, Trajectory(rollout_id=slot, scenario_id="s"))
    for group in ("1/s", "11/s"):
        store.save_judgement(group, Judgement())

    store.set_failed_aside("1")
    store.set_failed_aside("after")

    assert [slot for slot in slots if store.trajectory(slot) is not None] == ["11/s/0", "before/s/0"]
    assert (store.judgement("1/s"), store.judgement("11/s")) == (None, Judgement())
    store.close()
