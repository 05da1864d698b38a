"""Several replicas behind one gateway: where calls go, and what becomes of them when one dies."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from scripted_servers import ScriptedServer

from woodshed.engine import EngineClient
from woodshed.engine.client.config import EngineConfig, ServedModel
from woodshed.engine.run import run_engine
from woodshed.engine.vllm.supervisor import Supervisor
from woodshed.errors import EngineError
from woodshed.testing.waiting import eventually
from woodshed.types import OpenSession

_numbers = itertools.count()


@dataclass
class Lab:
    """A real engine in this process, before scripted servers."""

    client: EngineClient
    servers: list[ScriptedServer]

    async def key(self, rollout_id: str | None = None) -> str:
        name = rollout_id or f"rollout-{next(_numbers)}"
        return (await self.client.open_session(OpenSession(rollout_id=name, policy="policy"))).secret

    async def ask(self, key: str, **extra: Any) -> Any:
        async with openai.AsyncOpenAI(base_url=self.client.openai_base_url, api_key=key, max_retries=0) as agent:
            messages: Any = [{"role": "user", "content": "?"}]
            answer: Any = await agent.chat.completions.create(model="policy", messages=messages, **extra)
            return [chunk async for chunk in answer] if extra.get("stream") else answer

    async def replica_of(self, key: str) -> ScriptedServer:
        """Ask once, and return who answered."""
        name = (await self.ask(key)).choices[0].message.content
        return next(one for one in self.servers if one.server.name == name)

    async def states(self) -> list[str]:
        (model,) = (await self.client.health()).models
        return [replica.state for replica in model.replicas]


@asynccontextmanager
async def lab(home: Path, count: int = 3) -> AsyncIterator[Lab]:
    folder = home / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    model = ServedModel(
        name="policy", path=str(folder), trainable=True, replicas=count, kv_cache_gib=0.001, tool_call_parser=None
    )
    servers = [ScriptedServer(model, number + 1, home) for number in range(count)]

    class Scripted(Supervisor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.servers = {one.server.name: one.server for one in servers}

        async def start(self) -> None:
            for one in servers:
                await one.start()

        async def stop(self) -> None:
            for one in servers:
                await one.die()

        async def restart(self, server: Any) -> None:
            one = next(one for one in servers if one.server is server)
            await one.die()
            await one.start()

    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def report(kind: str, message: str) -> None:
        if kind == "ready":
            ready.set_result(message)

    config = EngineConfig(home=home, models=(model,), api_key="key")
    running = asyncio.create_task(run_engine(config, report, Scripted))
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    try:
        async with EngineClient(ready.result() if ready.done() else "", "key") as client:
            try:
                yield Lab(client, servers)
            finally:
                await client.shutdown()
    finally:
        await running


async def test_all_calls_of_a_session_go_to_one_replica_and_sessions_spread(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        keys = [await engine.key() for _ in range(12)]
        seen = [{(await engine.replica_of(key)).server.name for _ in range(3)} for key in keys]
        (model,) = (await engine.client.health()).models

        assert [len(replicas) for replicas in seen] == [1] * 12
        assert all(2 <= count <= 5 for count in Counter(name for (name,) in seen).values())
        assert sum(replica.sessions for replica in model.replicas) == 12
        assert (sum(replica.calls for replica in model.replicas), model.moved_sessions) == (36, 0)


async def test_an_answer_names_its_replica_and_a_single_server_has_no_number(tmp_path: Path) -> None:
    async def header(engine: Lab) -> str | None:
        async with httpx.AsyncClient(trust_env=False) as http:
            body = {"model": "policy", "messages": [{"role": "user", "content": "?"}]}
            key = {"authorization": f"Bearer {await engine.key()}"}
            url = f"{engine.client.openai_base_url}/chat/completions"
            return (await http.post(url, json=body, headers=key)).headers.get("x-woodshed-replica")

    async with lab(tmp_path / "two", 2) as engine:
        assert await header(engine) in ("1", "2")
    async with lab(tmp_path / "one", 1) as engine:
        assert await header(engine) is None


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_on_a_dying_replica_is_answered_by_another(tmp_path: Path, is_known: bool, stream: bool) -> None:
    async with lab(tmp_path) as engine:
        key = await engine.key("r")
        home = await engine.replica_of(key)
        home.holds.clear()
        asking = asyncio.ensure_future(engine.ask(key, stream=stream))
        await eventually(lambda: len(home.asked) == 2, "the call is in flight there")
        await home.die(is_known=is_known)
        answer = await asking
        if stream:
            said = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            said = answer.choices[0].message.content
        after = await engine.replica_of(key)
        sealed = await engine.client.seal("r")

        assert said == after.server.name != home.server.name
        assert [call.error for call in sealed.calls] == [None] * 3
        assert (await engine.client.health()).failed_calls == 0


async def test_a_stream_that_has_begun_is_not_repeated_and_fails_as_infrastructure(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        key = await engine.key("r")
        home = await engine.replica_of(key)
        home.breaks_off_after = 2
        with pytest.raises(openai.APIError, match="vLLM failed to answer this call"):
            await engine.ask(key, stream=True)
        sealed = await engine.client.seal("r")

        assert [call.error and call.error.kind for call in sealed.calls] == [None, "UpstreamError"]
        assert sum(len(one.asked) for one in engine.servers) == 2


async def test_a_call_that_live_servers_fail_is_sent_twice_and_no_more(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        for one in engine.servers:
            one.status = 500
        with pytest.raises(openai.InternalServerError, match="vLLM failed to answer this call"):
            await engine.ask(await engine.key())

        assert sorted(len(one.asked) for one in engine.servers) == [0, 1, 1]


async def test_calls_wait_while_all_replicas_are_down_and_the_first_that_is_back_answers(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        for one in engine.servers:
            await one.die()
        asking = asyncio.ensure_future(engine.ask(await engine.key()))
        states = await engine.states()
        await engine.servers[1].start()
        answer = await asking

        assert states == ["starting"] * 3
        assert answer.choices[0].message.content == "policy#2"


async def test_replicas_that_were_given_up_are_left_alone_while_one_is_left(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        for one in engine.servers[:2]:
            one.server.give_up(EngineError("it keeps dying"))
        keys = [await engine.key() for _ in range(4)]
        answered = {(await engine.replica_of(key)).server.name for key in keys}
        assert answered == {"policy#3"}
        assert await engine.states() == ["given up", "given up", "ready"]

        engine.servers[2].server.give_up(EngineError("it keeps dying"))
        with pytest.raises(openai.InternalServerError, match="keeps dying"):
            await engine.ask(keys[0])


async def test_a_restart_of_a_replica_waits_for_its_calls_and_fails_none(tmp_path: Path) -> None:
    async with lab(tmp_path) as engine:
        keys = [await engine.key() for _ in range(9)]
        homes = {key: await engine.replica_of(key) for key in keys}
        first = engine.servers[0]
        mine = next(key for key, home in homes.items() if home is first)
        before = len(first.asked)
        first.holds.clear()
        asking = asyncio.ensure_future(engine.ask(mine))
        await eventually(lambda: len(first.asked) > before, "a call is in flight there")
        restarting = asyncio.ensure_future(engine.client.restart_replica("policy", 1))
        await eventually_state(engine, "draining")
        elsewhere = await engine.replica_of(mine)
        with pytest.raises(EngineError, match="being restarted already"):
            await engine.client.restart_replica("policy", 1)
        first.holds.set()
        answer, health = await asking, await restarting

        assert answer.choices[0].message.content == "policy#1"
        assert elsewhere is not first
        assert (health.name, health.state, health.starts) == ("policy#1", "ready", 2)
        with pytest.raises(EngineError, match=r"has no replica 4; they are 1 to 3"):
            await engine.client.restart_replica("policy", 4)


async def eventually_state(engine: Lab, state: str) -> None:
    async def there() -> bool:
        return state in await engine.states()

    await eventually(there, f"a replica is {state}")


async def test_the_share_of_calls_that_met_their_prefix_cache_is_counted(tmp_path: Path) -> None:
    async with lab(tmp_path, 2) as engine:
        key = await engine.key()
        home = await engine.replica_of(key)
        home.cached = 6
        answers = [await engine.ask(key) for _ in range(3)]
        (model,) = (await engine.client.health()).models
        mine = next(replica for replica in model.replicas if replica.name == home.server.name)
        other = next(replica for replica in model.replicas if replica.name != home.server.name)

        assert (mine.cached_calls, mine.cached_tokens) == (3 / 4, 18 / 32)
        assert (other.cached_calls, other.cached_tokens) == (None, None)
        assert answers[0].usage.prompt_tokens_details is None


async def test_a_sealed_session_gives_its_place_back(tmp_path: Path) -> None:
    async with lab(tmp_path, 2) as engine:
        await engine.replica_of(await engine.key("r"))
        await engine.client.seal("r")
        (model,) = (await engine.client.health()).models

        assert [replica.sessions for replica in model.replicas] == [0, 0]
