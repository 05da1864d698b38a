"""A run chooses its judge's mode once, says so in its summary, and keeps it when it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from known_judges import copies, honest
from loopback_judge import LoopbackJudge, Request, attempts_of, labels, says, verdict

from woodshed.errors import CheckError
from woodshed.rewards.ruler import Ruler
from woodshed.training.doctor.judge import check_judge
from woodshed.training.report.summary import summarise
from woodshed.training.run.judge_modes import with_modes
from woodshed.training.run.store import RunStore
from woodshed.types import EngineHealth


async def test_a_resumed_run_keeps_the_mode_it_began_with_and_asks_nothing(
    server: LoopbackJudge, tmp_path: Path
) -> None:
    server.script = [says(copies)]
    store = RunStore(tmp_path)
    first = await with_modes(Ruler(server.judge(), mode="auto"), store)
    asked = len(server.requests)
    server.script = [says(honest)]
    store.close()
    store = RunStore(tmp_path)

    resumed = await with_modes(Ruler(server.judge(), mode="auto"), store)
    summary = summarise(
        store, [], health=EngineHealth(woodshed="0"), seconds=0.0, peak_rss_mb=0.0, judge=Ruler(server.judge())
    )
    store.close()

    assert isinstance(first, Ruler) and isinstance(resumed, Ruler)
    assert first.mode == resumed.mode == "single"
    assert len(server.requests) == asked
    (table,) = summary.model_dump(mode="json")["judge_modes"]
    assert (table["judge"], table["mode"]) == ("loopback", "single")
    assert {t["mode"]: t["flat"] for t in table["trials"]} == {"group": 10, "single": 0, "pairs": 0}


async def test_a_judge_that_is_a_coin_starts_no_run(server: LoopbackJudge, tmp_path: Path) -> None:
    server.script = [says("5")]
    store = RunStore(tmp_path)

    with pytest.raises(CheckError, match="no better than a coin"):
        await with_modes(Ruler(server.judge(), mode="auto"), store)

    assert store.fact("judge_modes") is None
    store.close()


async def test_the_doctor_chooses_the_mode_and_recommends_auto_where_it_helps(server: LoopbackJudge) -> None:
    stock = {"lamps left": 1.0, "Go away": 0.0}
    server.script = [says(lambda r: _doctor(r, stock))]

    chosen = await check_judge(Ruler(server.judge(), mode="auto"))
    plain = await check_judge(Ruler(server.judge()))

    assert (chosen.status, plain.status) == ("pass", "warn")
    assert "of its modes 'single' is best" in chosen.found
    assert "Ruler(mode='auto')" in plain.advice


def _doctor(request: Request, stock: dict[str, float]) -> str:
    user = request["messages"][1]["content"]
    if "lamps are left" not in user:
        return copies(request)
    is_list = "JSON" in request["messages"][0]["content"]
    return verdict(dict.fromkeys(attempts_of(user), 0.8)) if is_list else labels(stock)(request)
