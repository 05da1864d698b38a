"""An engine behind a reverse proxy, under a path: clients reach it, and no header misleads it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from woodshed.engine import Engine
from woodshed.errors import EngineError
from woodshed.testing import say
from woodshed.testing.conformance.engine import GatewayEngine
from woodshed.testing.waiting import eventually
from woodshed.types import OpenSession

pytestmark = pytest.mark.slow
KEY = "the-key"
METHODS = ["GET", "POST"]


@asynccontextmanager
async def proxy(upstream: str, prefix: str) -> AsyncIterator[str]:
    """Pass on what comes under `prefix`, without it, as nginx does; yields the proxy's address with the prefix."""
    async with httpx.AsyncClient(base_url=upstream, trust_env=False, timeout=60) as http:

        async def pass_on(request: Request) -> Response:
            kept = [(name, value) for name, value in request.headers.raw if name not in (b"host", b"connection")]
            headers = [*kept, (b"x-forwarded-prefix", b"/evil"), (b"x-forwarded-host", b"evil.example")]
            asked = http.build_request(
                request.method, "/" + request.path_params["path"], content=await request.body(), headers=headers
            )
            reply = await http.send(asked, stream=True)
            passed = {name: value for name, value in reply.headers.items() if name in ("content-type", "retry-after")}
            return StreamingResponse(reply.aiter_raw(), reply.status_code, passed)

        app = Starlette(routes=[Route(prefix + "/{path:path}", pass_on, methods=METHODS)])
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", ws="none"))
        serving = asyncio.create_task(server._serve([listener]))
        await eventually(lambda: server.started, "the proxy is started")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
        finally:
            server.should_exit = True
            await serving


async def test_an_engine_under_a_path_serves_its_client_and_the_agents(needs_engine: None) -> None:
    engine = await asyncio.to_thread(GatewayEngine(None, api_key=KEY).start)
    try:
        engine.vllm.play(lambda request: say("seven"))
        async with proxy(engine.url, "/gpu/one") as url:
            with pytest.raises(EngineError, match="not this engine's"):
                async with Engine.connect(url).running():
                    pass
            async with Engine.connect(url + "/", api_key=KEY).running() as client:
                grant = await client.open_session(OpenSession(rollout_id="r", policy="policy"))
                async with openai.AsyncOpenAI(base_url=grant.base_url, api_key=grant.secret, max_retries=0) as agent:
                    question = {"model": "any", "messages": [{"role": "user", "content": "How many?"}]}
                    whole = await agent.chat.completions.create(**question)
                    stream = await agent.chat.completions.create(**question, stream=True)
                    parts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
                sealed = await client.seal("r")
            async with httpx.AsyncClient(trust_env=False) as raw:
                body = OpenSession(rollout_id="raw", policy="policy").model_dump_json()
                headers = {"authorization": f"Bearer {KEY}"}
                told = (await raw.post(f"{url}/woodshed/v1/sessions", content=body, headers=headers)).json()
    finally:
        await asyncio.to_thread(engine.close)

    assert grant.base_url == f"{url}/v1"
    assert (whole.choices[0].message.content, "".join(parts)) == ("seven", "seven")
    assert [call.error for call in sealed.calls] == [None, None]
    # The engine itself believes no header about where it is.
    assert told["base_url"] == f"{engine.url}/v1"
