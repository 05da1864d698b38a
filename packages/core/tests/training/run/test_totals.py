"""A run that is resumed counts what all its lives have used, and of a shared engine only its own part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from woodshed.engine.client.client import EngineClient
from woodshed.testing.loopback import LoopbackHandler, LoopbackServer
from woodshed.testing.waiting import eventually
from woodshed.training.run.store import RunStore
from woodshed.training.run.totals import RunTotals
from woodshed.types import EngineHealth, ModelHealth, ModelSettings

SETTINGS = ModelSettings(model="m", trainable=True, max_lora_rank=16, lora_slots=3)


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        self.send_json(200, self.server.health.model_dump(mode="json"))  # type: ignore[attr-defined]


class _Engine(LoopbackServer):
    """Answers with a health that the test sets."""

    health = EngineHealth(woodshed="0")

    def is_at(self, engine_id: str, swaps: int, failed: int, restarts: int, runs: tuple[str, ...] = ()) -> None:
        model = ModelHealth(name="policy", model="m", vllm="0", ready=True, restarts=restarts, settings=SETTINGS)
        self.health = EngineHealth(
            woodshed="0", engine_id=engine_id, run_ids=runs, models=(model,), lora_swaps=swaps, failed_calls=failed
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def _engine() -> Iterator[_Engine]:
    with _Engine(("127.0.0.1", 0), _Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


async def test_the_engine_counts_for_the_run_once_it_has_opened_its_policy(tmp_path: Path) -> None:
    with _engine() as engine:
        store = RunStore(tmp_path)
        totals = RunTotals(store)
        async with EngineClient(engine.url) as client, totals.of(client):
            engine.is_at("e", 9, 9, 9, ("another",))
            await totals.sample(client)
            before = dict(totals.counted)
            engine.is_at("e", 3, 1, 2, (store.run_id(),))
            await totals.sample(client)
        again = RunTotals(store)
        store.close()

    assert list(before.values()) == [0, 0, 0]
    assert list(totals.counted.values()) == list(again.counted.values()) == [3, 1, 2]


async def test_what_a_killed_client_counted_is_in_the_store_before_it_dies(tmp_path: Path) -> None:
    with _engine() as engine:
        store = RunStore(tmp_path)
        store.save_fact("seconds", 100.0)  # of a run from before there were totals
        totals = RunTotals(store)
        async with totals.counting(), EngineClient(engine.url) as client, totals.of(client):
            engine.is_at("e", 2, 3, 1, (store.run_id(),))
            # Nobody samples by hand here: a kill now would find this.
            await eventually(lambda: RunTotals(store).counted["failed_calls"] == 3, "the counters are saved")
            found = RunTotals(store)
        store.close()

    assert list(found.counted.values()) == [2, 3, 1]
    assert 100 < found.seconds < 160 and found.peak_rss_mb > 1


async def test_an_engine_that_dies_hides_no_error_of_the_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    totals = RunTotals(store)
    with pytest.raises(KeyError, match="the run's own"):
        async with totals.counting():
            with _engine() as engine:
                async with EngineClient(engine.url) as client, totals.of(client):
                    engine.is_at("e", 1, 0, 0, (store.run_id(),))
                    await totals.sample(client)
                    engine.shutdown()
                    engine.server_close()
                    raise KeyError("the run's own")

    assert RunTotals(store).counted["lora_swaps"] == 1
    store.close()


async def test_seconds_count_however_a_life_ends(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            async with RunTotals(store).counting() as totals:
                totals._clock -= 10
                raise KeyboardInterrupt

    assert 20 <= RunTotals(store).seconds < 30
    store.close()
