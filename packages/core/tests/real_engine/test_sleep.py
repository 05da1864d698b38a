"""vLLM's real scheduler, asleep: calls that it was answering go on after it has woken up, and none fails.

The CPU build frees no memory when it is told to sleep; everything else about sleeping is vLLM's own.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest
from shop import RunningEngine, models

from woodshed.engine import Engine
from woodshed.engine.vllm.gpu_turns import GpuTurns
from woodshed.engine.vllm.model_server import ModelServer

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="session")]

LONG = {"max_tokens": 400, "extra_body": {"ignore_eos": True}}


async def test_calls_in_flight_and_new_ones_survive_a_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    async with Engine.local(python=sys.executable).running([models()[0]], tmp_path / "home") as client:
        engine = RunningEngine(client=client, home=tmp_path / "home")
        where = engine.server()
        server = ModelServer(models()[0].model_copy(update={"gpu_sharing": "sleep"}), tmp_path)
        server.url, server.key = where["url"], where["key"]
        server.mark_up()
        async with aiohttp.ClientSession() as http, engine.session() as session:
            turns, status = GpuTurns([server], http), f"{server.url}/is_sleeping"
            asking = [asyncio.create_task(session.ask(**LONG)) for _ in range(4)]
            await engine.answers_a_later_call()
            async with turns.trainers():
                async with http.get(status, headers=server.headers) as reply:
                    slept = (await reply.json())["is_sleeping"]
                asking += [asyncio.create_task(session.ask(**LONG)) for _ in range(2)]
                done, _ = await asyncio.wait(asking, timeout=2)
            answers = await asyncio.gather(*asking)
            calls = (await session.seal()).calls

    assert slept and not done
    assert [answer.usage.completion_tokens for answer in answers] == [400] * 6
    assert [(call.error, len(call.completions[0].logprobs)) for call in calls] == [(None, 400)] * 6
    assert (await asyncio.wait_for(server.awake(), 1)) is None
