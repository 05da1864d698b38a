"""vLLM and the trainer take turns on a GPU: calls wait in the gateway while vLLM sleeps, and none fails.

Gateway, sessions and turns are the engine's own; vLLM is a server that does what its sleep mode does, and that answers
500 to every call that reaches it asleep.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from woodshed.engine.client.config import GpuSharing, ServedModel
from woodshed.engine.gateway.counters import Counters
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.store import Store
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.vllm.gpu_turns import GpuTurns
from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import free_port
from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually


@dataclass
class Vllm:
    """What the engine needs of a vLLM that can sleep."""

    asked: list[str] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    is_asleep: bool = False

    async def answer(self, request: Request) -> Response:
        what = request.url.path.rpartition("/")[2]
        self.asked.append(what if not request.url.query else f"{what}?{request.url.query}")
        if what in self.refuses:
            return JSONResponse({"error": "no"}, status_code=500)
        if what in ("sleep", "wake_up"):
            self.is_asleep = what == "sleep"
        elif self.is_asleep:
            return JSONResponse({"error": "an illegal memory access was encountered"}, status_code=500)
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": "yes"}}]})


@dataclass
class Engine:
    vllm: Vllm
    server: ModelServer
    turns: GpuTurns
    http: aiohttp.ClientSession
    client: httpx.AsyncClient

    async def call(self) -> int:
        body = {"model": "judge", "messages": [{"role": "user", "content": "?"}]}
        return (await self.client.post("/v1/chat/completions", json=body)).status_code


@asynccontextmanager
async def engine(tmp_path: Path, sharing: GpuSharing = "sleep") -> AsyncIterator[Engine]:
    vllm, port = Vllm(), free_port()
    app = Starlette(routes=[Route("/{path:path}", vllm.answer, methods=["GET", "POST"])])
    web = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="off"))
    serving = asyncio.create_task(web.serve())
    await eventually(lambda: web.started, "the upstream listens")
    server = ModelServer(ServedModel(name="judge", path="m", gpu_sharing=sharing), tmp_path)
    server.url = f"http://127.0.0.1:{port}"
    server.mark_up()
    store = Store(tmp_path / "engine.sqlite")
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        upstream = Upstream([server], None, http, Counters(store))
        gateway = Gateway({"judge": upstream}, Sessions(store), None)
        transport = httpx.ASGITransport(app=gateway.chat)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
            yield Engine(vllm, server, GpuTurns([server], http), http, client)
    store.close()
    web.should_exit = True
    await serving


async def test_calls_wait_while_vllm_sleeps_and_none_reaches_it(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        async with running.turns.trainers():
            slept = running.vllm.is_asleep
            waiting = [asyncio.create_task(running.call()) for _ in range(5)]
            await asyncio.wait(waiting, timeout=0.3)
            answered_early = [task for task in waiting if task.done()]
        answers = await asyncio.gather(*waiting)

    assert slept and not answered_early
    assert answers == [200] * 5
    assert running.vllm.asked == ["sleep?level=1&mode=keep", "wake_up", *["completions"] * 5]


async def test_vllm_wakes_up_after_a_step_that_failed(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        with pytest.raises(ZeroDivisionError):
            async with running.turns.trainers():
                raise ZeroDivisionError
        assert not running.vllm.is_asleep
        assert await running.call() == 200


async def test_vllm_that_does_not_fall_asleep_refuses_the_step_and_answers_calls(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        running.vllm.refuses = {"sleep"}
        with pytest.raises(EngineError, match=r"'judge' answered /sleep.* with 500"):
            async with running.turns.trainers():
                pytest.fail("the trainer got a turn beside vLLM")
        assert await running.call() == 200


async def test_vllm_that_does_not_wake_up_is_killed_for_its_supervisor_to_start_again(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        running.server.pid, running.vllm.refuses = process.pid, {"wake_up"}
        async with running.turns.trainers():
            pass

        assert process.wait(10) == -9
        await asyncio.wait_for(running.server.awake(), 1)


async def test_turns_of_two_trainers_never_overlap_and_a_lora_is_loaded_in_neither(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        order: list[str] = []

        async def step(name: str) -> None:
            async with running.turns.trainers():
                order.append(f"{name} begins")
                await asyncio.sleep(0.05)
                order.append(f"{name} ends")

        async def load() -> None:
            async with running.turns.vllm():
                order.append("load")
                assert not running.vllm.is_asleep

        await asyncio.gather(step("a"), load(), step("b"))

    assert order == ["a begins", "a ends", "load", "b begins", "b ends"]


async def test_a_lora_that_is_no_longer_used_is_unloaded_when_vllm_is_awake(tmp_path: Path) -> None:
    async with engine(tmp_path) as running:
        slots = LoraSlots([running.server], running.http)
        await slots.swap(1, tmp_path)
        async with running.turns.trainers():
            await slots.reset_to_base()  # drops version 1
            await asyncio.sleep(0.1)
        await eventually(lambda: "unload_lora_adapter" in running.vllm.asked, "the version is unloaded")

    assert running.vllm.asked.index("unload_lora_adapter") > running.vllm.asked.index("wake_up")


async def test_with_a_split_vllm_never_sleeps_and_nobody_waits(tmp_path: Path) -> None:
    async with engine(tmp_path, "split") as running:
        async with running.turns.trainers(), running.turns.vllm(), running.turns.trainers():
            assert await running.call() == 200

    assert running.vllm.asked == ["completions"]
