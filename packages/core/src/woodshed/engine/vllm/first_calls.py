"""What a vLLM server that has just been started is asked before anybody else may call it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError

_START_WITHIN_S = 900.0
_LOG_LINES = 25


def tail(log: Path, lines: int = _LOG_LINES) -> str:
    """Return the last lines of a log, or a note that there is none."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"({log} was never written)"


async def until_answering(server: ModelServer, pid: int, http: aiohttp.ClientSession) -> None:
    """Wait until a server answers, and note its version and the longest context it takes.

    Raises:
        EngineError: The process `pid` ended, or nothing answered in time; carries the last lines of its log.
    """
    deadline = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < deadline:
        if server.pid != pid:
            raise EngineError(
                f"vLLM for {server.name!r} could not start; last lines of {str(server.log)!r}:\n" + tail(server.log)
            )
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=5)
            async with http.get(f"{server.url}/version", headers=server.headers, timeout=timeout) as reply:
                if reply.status == 200:
                    server.vllm = str((await reply.json())["version"])
                    break
        await asyncio.sleep(0.1)
    else:
        raise EngineError(f"vLLM for {server.name!r} did not answer within {_START_WITHIN_S:.0f} s")
    async with http.get(f"{server.url}/v1/models", headers=server.headers) as reply:
        cards = (await reply.json())["data"]
    server.max_model_len = next((int(card["max_model_len"]) for card in cards if card.get("max_model_len")), None)


async def warm_up(server: ModelServer, http: aiohttp.ClientSession) -> None:
    """Send the first call of each kind, which is slow because vLLM compiles and allocates during it."""
    call = {"model": server.model.name, "messages": [{"role": "user", "content": "1"}], "max_tokens": 2}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for body in (call | {"logprobs": True}, call | {"response_format": response_format}):
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            url = f"{server.url}/v1/chat/completions"
            async with http.post(url, json=body, headers=server.headers) as reply:
                await reply.read()
