"""Servers that answer as vLLM does, over real HTTP: they load LoRAs, answer chat calls, and die when told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.model_server import ModelServer


class ScriptedServer:
    """One of them, with the `ModelServer` that the engine knows it by."""

    def __init__(self, model: ServedModel, replica: int, logs: Path) -> None:
        self.server = ModelServer(model, logs, replica=replica)
        self.loaded: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.refuses = 0
        """How many of the next requests to load are refused."""
        self.status = 200
        """Of the next chat answers."""
        self.holds = asyncio.Event()
        """Whether chat calls and loads go on; they wait otherwise."""
        self.holds.set()
        self.breaks_off_after: int | None = None
        """Chunks of a stream after which the connection is cut."""
        self.cached = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, as after a start of vLLM: nothing is loaded."""
        app = web.Application()
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        app.router.add_post("/v1/chat/completions", self._chat)
        self.loaded, self._runner = [], web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.server.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        if self.server.prepare is not None:
            await self.server.prepare()
        self.server.generation += 1
        self.server.is_started = True
        self.server.mark_up()

    async def die(self, *, is_known: bool = True) -> None:
        """Cut every connection; the engine is told of it as by the supervisor, or not yet."""
        if is_known:
            self.server.mark_down()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        await self.holds.wait()
        if self.refuses:
            self.refuses -= 1
            return web.json_response({"error": {"message": "no room for another adapter"}}, status=400)
        self.loaded.append(body["lora_name"])
        return web.Response(text="loaded")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.loaded:
            return web.json_response({"error": {"message": "not loaded"}}, status=404)
        self.loaded.remove(name)
        return web.Response(text="unloaded")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "scripted"})

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in (self.server.model.name, *self.loaded)]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        await self.holds.wait()
        if body["model"] != self.server.model.name and body["model"] not in self.loaded:
            return web.json_response({"error": {"message": f"no model {body['model']!r}"}}, status=404)
        if self.status != 200:
            return web.json_response({"error": {"message": "scripted"}}, status=self.status)
        if body.get("stream"):
            return await self._stream(request, body)
        choice = {
            "index": 0, "message": {"role": "assistant", "content": self.server.name}, "finish_reason": "stop",
            "token_ids": [1], "logprobs": {"content": [{"token": "x", "logprob": -0.5}]},
        }  # fmt: skip
        usage = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}
        usage["prompt_tokens_details"] = {"cached_tokens": self.cached}  # type: ignore[assignment]
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
        return web.json_response(reply | {"usage": usage, "prompt_token_ids": [1, 2]})

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, {"content": self.server.name}, {}]
        for number, delta in enumerate(deltas):
            if number == self.breaks_off_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            reason = "stop" if not delta else None
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None, "token_ids": []}
            chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            await response.write(b"data: " + json.dumps(chunk | {"choices": [choice]}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def scripted_servers(
    tmp_path: Path, count: int
) -> AsyncIterator[tuple[list[ScriptedServer], aiohttp.ClientSession]]:
    """Yield that many servers of one trainable model, described but not started, and a client."""
    model = ServedModel(name="policy", path="owner/model", trainable=True, replicas=count)
    servers = [ScriptedServer(model, number + 1, tmp_path) for number in range(count)]
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        for one in servers:
            stack.push_async_callback(one.die)
        yield servers, http
