"""A run that is resumed counts the seconds and the peak memory of all its lives, killed ones too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from woodshed.engine.client.client import EngineClient
from woodshed.testing.loopback import LoopbackHandler, LoopbackServer
from woodshed.testing.waiting import eventually
from woodshed.training.run.store import RunStore
from woodshed.training.run.totals import REPLICAS, RunTotals
from woodshed.types import EngineHealth, ModelHealth, ModelSettings, ReplicaHealth


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        self.send_json(200, self.server.health.model_dump(mode="json"))  # type: ignore[attr-defined]


class _Engine(LoopbackServer):
    """An engine that says how much memory it has."""

    health = EngineHealth(woodshed="0", rss_mb=1000.0)

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


async def test_what_a_killed_client_took_is_in_the_store_before_it_dies(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save_fact("seconds", 100.0)  # of a run from before there were totals
    with _engine() as engine:
        totals = RunTotals(store)
        async with totals.counting(), EngineClient(engine.url) as client, totals.of(client):
            # Nobody asks for a sample here: a kill now would find this.
            await eventually(lambda: RunTotals(store).peak_rss_mb > 1000, "memory is saved")
            killed = RunTotals(store)
    engine.health = EngineHealth(woodshed="0", rss_mb=10.0)

    assert 100 < killed.seconds < 160
    assert RunTotals(store).peak_rss_mb > 1000, "the next life starts from it"
    store.close()


async def test_an_engine_that_dies_hides_no_error_of_the_run(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    totals = RunTotals(store)
    with pytest.raises(KeyError, match="the run's own"):
        async with totals.counting():
            with _engine() as engine:
                async with EngineClient(engine.url) as client, totals.of(client):
                    await totals.sample(client)
                    engine.shutdown()
                    engine.server_close()
                    raise KeyError("the run's own")

    assert RunTotals(store).peak_rss_mb > 1000
    store.close()


async def test_seconds_count_however_a_life_ends(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    lives = 0.0
    for _ in range(2):
        totals = RunTotals(store)
        clock = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            async with totals.counting():
                await eventually(
                    lambda before=lives: RunTotals(store).seconds > before, "some time is saved", every_s=0.01
                )
                raise KeyboardInterrupt
        lives += time.monotonic() - clock

        assert RunTotals(store).seconds == pytest.approx(lives, abs=0.2)
    store.close()


async def test_the_state_of_each_replica_is_in_the_store_while_the_run_goes_on(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    settings = ModelSettings(model="m", trainable=True, max_lora_rank=16, lora_slots=3, replicas=2)
    with _engine() as engine:
        for state in ("ready", "starting"):
            replicas = (
                ReplicaHealth(name="policy#1", state="ready", in_flight=3, rss_mb=7.0),
                ReplicaHealth(name="policy#2", state=state, in_flight=0),  # type: ignore[arg-type]
            )
            model = ModelHealth(name="policy", model="m", vllm="0", ready=True, settings=settings, replicas=replicas)
            engine.health = EngineHealth(woodshed="0", models=(model,))
            async with EngineClient(engine.url) as client, RunTotals(store).of(client):
                await eventually(
                    lambda state=state: [r["state"] for r in store.fact(REPLICAS) or ()] == ["ready", state],
                    "it is stored",
                )

    assert [(r["name"], r["in_flight"]) for r in store.fact(REPLICAS)] == [("policy#1", 3), ("policy#2", 0)]
