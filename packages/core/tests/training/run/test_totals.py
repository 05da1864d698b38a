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
from woodshed.types import EngineHealth, ModelHealth


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        self.send_json(200, self.server.health.model_dump(mode="json"))  # type: ignore[attr-defined]


class _Engine(LoopbackServer):
    """Answers with a health that the test sets."""

    health = EngineHealth(woodshed="0")

    def is_at(self, engine_id: str, swaps: int, failed: int, restarts: int, runs: tuple[str, ...] = ()) -> None:
        model = ModelHealth(name="policy", model="m", vllm="0", ready=True, restarts=restarts)
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


async def test_each_life_of_client_and_engine_adds_to_the_ones_before(tmp_path: Path) -> None:
    lives = [("one", 3, 1, 0), ("two", 2, 0, 4), ("three", 0, 5, 1)]
    for number, life in enumerate(lives):
        with _engine() as engine:
            engine.is_at(life[0], 0, 0, 0)
            store = RunStore(tmp_path)
            totals = RunTotals(store)
            async with EngineClient(engine.url) as client, totals.of(client, shared=False):
                engine.is_at(*life)
                await totals.sample(client)
                counted = totals.counted
            store.close()
        assert list(counted.values()) == [sum(life[1 + k] for life in lives[: number + 1]) for k in range(3)]


async def test_of_a_shared_engine_only_the_runs_own_part_counts(tmp_path: Path) -> None:
    with _engine() as engine:
        store = RunStore(tmp_path)
        own = (store.run_id(),)

        async def life(
            before: tuple[int, int, int], after: tuple[int, int, int], holders: tuple[str, ...]
        ) -> list[int]:
            totals = RunTotals(store)
            async with EngineClient(engine.url) as client:
                engine.is_at("e", *before, holders)
                async with totals.of(client, shared=True):
                    engine.is_at("e", *after, own)
                    await totals.sample(client)
            return list(totals.counted.values())

        # Another run was there first; then the client is killed twice: once the engine waits, once another run comes.
        assert await life((7, 7, 7), (9, 8, 7), ("other",)) == [2, 1, 0]
        assert await life((10, 8, 8), (11, 8, 8), own) == [4, 1, 1]
        assert await life((50, 60, 70), (0, 60, 71), ("other",)) == [4, 1, 2]
        store.close()


async def test_what_a_killed_client_counted_is_in_the_store_before_it_dies(tmp_path: Path) -> None:
    with _engine() as engine:
        store = RunStore(tmp_path)
        store.save_fact("seconds", 100.0)  # of a run from before there were totals
        totals = RunTotals(store)
        async with totals.counting(), EngineClient(engine.url) as client, totals.of(client, shared=False):
            engine.is_at("e", 2, 3, 1)
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
                async with EngineClient(engine.url) as client, totals.of(client, shared=False):
                    engine.is_at("e", 1, 0, 0)
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
