"""An SFT can be followed: its rows go to trackers and to the author's own function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sft_engine import SLOW, SftEngine, conversations

import woodshed


def tune(folder: Path, engine: SftEngine, **settings: Any) -> woodshed.SftRun:
    return woodshed.sft(
        conversations(folder), policy="m", engine=engine, run_dir=folder / "sft", batch_size=1, held_out=0.5,  # type: ignore[arg-type]
        **{"epochs": 2, **settings},
    )  # fmt: skip


def test_on_step_gets_every_row_once_it_is_stored(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    tuned = tune(tmp_path, SftEngine(), on_step=rows.append)

    assert [row["nll"] for row in rows] == pytest.approx([2.0, 1.9, 1.8, 1.7])
    assert tuple(rows) == tuned.history


def test_an_sft_whose_on_step_raised_goes_on_behind_that_step(tmp_path: Path) -> None:
    engine, rows = SftEngine(), []

    def fail(row: dict[str, Any]) -> None:
        raise KeyError(row["step"])

    with pytest.raises(KeyError, match="0"):
        tune(tmp_path, engine, on_step=fail)
    tune(tmp_path, engine, on_step=rows.append)

    assert [row["step"] for row in rows] == [1, 2, 3]
    assert len(engine.steps) == len(set(engine.steps)) == 4


def test_what_the_trainer_warns_of_is_in_the_summary_once(tmp_path: Path) -> None:
    assert tune(tmp_path, SftEngine()).summary.warnings == (SLOW,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"track": "tensorbord"}, "track has 'tensorbord'"), ({"on_step": "print"}, "on_step is 'print'; expected")],
)
def test_what_cannot_follow_is_refused_before_any_work(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=said):
        tune(tmp_path, SftEngine(), **settings)
    assert not (tmp_path / "sft").exists()
