"""A LoRA swap over several servers: all of them, or none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_servers import scripted_servers

from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually

SOON_S = 0.2
"""A deadline that has passed soon, and not while a load that needs no waiting is under way."""


async def test_a_version_is_loaded_on_every_replica_before_any_call_gets_it(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 3) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http)
        for one in servers:
            await one.start()
        servers[2].holds.clear()
        swapping = asyncio.ensure_future(slots.swap(1, tmp_path))
        await eventually(lambda: servers[0].loaded == servers[1].loaded == ["policy@1"], "two have loaded it")
        before = slots.version
        servers[2].holds.set()
        await swapping

        assert (before, slots.version) == (0, 1)
        assert [one.loaded for one in servers] == [["policy@1"]] * 3
        assert slots.swap_s is not None and slots.left_out == frozenset()


@pytest.mark.parametrize("refuser", [0, 1, 2])
async def test_a_replica_that_refuses_a_version_keeps_it_from_all(tmp_path: Path, refuser: int) -> None:
    async with scripted_servers(tmp_path, 3) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http)
        for one in servers:
            await one.start()
        await slots.swap(1, tmp_path)
        servers[refuser].refuses = 1000
        with pytest.raises(
            EngineError, match=rf"'policy#{refuser + 1}' did not load adapter version 2.*no replica.*no"
        ):
            await slots.swap(2, tmp_path)

        assert slots.version == 1
        with slots.lease(servers[0].server) as lora:
            assert lora.name == "policy@1"
        await eventually(
            lambda: all(one.loaded == ["policy@1"] for one in servers), "version 2 is unloaded where it was loaded"
        )
        servers[refuser].refuses = 0
        await slots.swap(2, tmp_path)
        await eventually(lambda: all(one.loaded == ["policy@2"] for one in servers), "the next attempt succeeds on all")


async def test_a_replica_that_refuses_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http)
        for one in servers:
            await one.start()
        servers[1].refuses = 2
        await slots.swap(1, tmp_path)

        assert [one.loaded for one in servers] == [["policy@1"]] * 2


async def test_one_server_that_refuses_is_told_of_as_before(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 1) as (servers, http):
        slots = LoraSlots([servers[0].server], http)
        await servers[0].start()
        servers[0].refuses = 1
        with pytest.raises(EngineError, match=r"^vLLM refused adapter version 1 .*no room for another adapter"):
            await slots.swap(1, tmp_path)

        assert (slots.version, servers[0].refuses) == (0, 0)


@pytest.mark.parametrize("how", ["down", "hangs"])
async def test_a_replica_that_does_not_answer_is_left_out_said_and_catches_up(tmp_path: Path, how: str) -> None:
    said: list[str] = []
    async with scripted_servers(tmp_path, 3) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http, said.append, left_out_after_s=SOON_S)
        for one in servers:
            await one.start()
        await slots.swap(1, tmp_path)
        if how == "down":
            await servers[1].die()
        else:
            servers[1].holds.clear()
        await slots.swap(2, tmp_path)
        left_out = slots.left_out

        assert (slots.version, left_out) == (2, {"policy#2"})
        assert [slots.serves(one.server) for one in servers] == [True, False, True]
        state = "is down" if how == "down" else "does not answer"
        assert f"'policy#2' was left out of the swap to version 2: it {state}" in said[0]
        if how == "down":
            await servers[1].start()
        else:
            servers[1].holds.set()
        await eventually(lambda: not slots.left_out, "it has caught up")
        assert slots.serves(servers[1].server) and "policy@2" in servers[1].loaded
        assert said[1:] == ["'policy#2' has caught up and serves version 2"]


async def test_a_replica_that_comes_back_has_the_newest_version_before_it_is_up(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http, left_out_after_s=SOON_S)
        for one in servers:
            await one.start()
        await slots.swap(1, tmp_path)
        await servers[1].die()
        await slots.swap(2, tmp_path)
        await slots.swap(3, tmp_path)
        await servers[1].start()

        assert servers[1].loaded == ["policy@3"]
        assert slots.serves(servers[1].server)


async def test_a_version_stays_on_a_replica_while_a_call_there_uses_it(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http)
        for one in servers:
            await one.start()
        await slots.swap(1, tmp_path)
        with slots.lease(servers[0].server) as lora:
            await slots.swap(2, tmp_path)
            await eventually(lambda: servers[1].loaded == ["policy@2"], "the idle one has unloaded it")

            assert lora.name == "policy@1"
            assert servers[0].loaded == ["policy@1", "policy@2"]
        await eventually(lambda: servers[0].loaded == ["policy@2"], "it is unloaded after its last call")


async def test_a_swap_waits_while_all_replicas_are_down(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http, left_out_after_s=SOON_S)
        swapping = asyncio.ensure_future(slots.swap(1, tmp_path))
        await asyncio.wait([swapping], timeout=2 * SOON_S)
        waits = not swapping.done()
        for one in servers:
            await one.start()
        await swapping

        assert waits and slots.version == 1
        assert slots.serves(servers[0].server)


async def test_a_replica_that_was_given_up_holds_no_swap_up(tmp_path: Path) -> None:
    said: list[str] = []
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http, said.append)
        await servers[0].start()
        servers[1].server.give_up(EngineError("it keeps dying"))
        await slots.swap(1, tmp_path)

        assert (slots.version, slots.left_out) == (1, {"policy#2"})
        assert "it was given up" in said[0]
        servers[0].server.give_up(EngineError("this one, too"))
        with pytest.raises(EngineError, match=r"keeps dying|this one"):
            await slots.swap(2, tmp_path)
        assert slots.version == 1


async def test_another_run_begins_at_the_base_model_on_all(tmp_path: Path) -> None:
    async with scripted_servers(tmp_path, 2) as (servers, http):
        slots = LoraSlots([one.server for one in servers], http)
        for one in servers:
            await one.start()
        await slots.swap(1, tmp_path)
        await slots.reset_to_base()
        await eventually(lambda: not servers[0].loaded and not servers[1].loaded, "both have unloaded it")
        await slots.swap(1, tmp_path)

        assert [one.loaded for one in servers] == [["policy@1.1"]] * 2
