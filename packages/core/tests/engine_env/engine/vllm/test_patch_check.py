"""The call that tries vLLM's patches: what it can't try is said, and a patch without effect stops the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.patch_check import check_patches
from woodshed.engine.vllm.processes import free_port
from woodshed.errors import EngineError


def server(tmp_path: Path) -> ModelServer:
    made = ModelServer(ServedModel(name="m", path="m"), tmp_path)
    made.url = f"http://127.0.0.1:{free_port()}"
    return made


async def checked(server: ModelServer) -> list[str]:
    """Return what was said meanwhile."""
    said: list[str] = []
    async with aiohttp.ClientSession() as http:
        await check_patches(server, http, said.append)
    return said


async def test_a_server_that_gives_no_answer_is_not_taken_for_checked(tmp_path: Path) -> None:
    (said,) = await checked(server(tmp_path))

    assert said.startswith("'m' gave no answer to its first call, so vLLM's patches were not tried (")


@pytest.mark.parametrize(
    ("headers", "logprobs", "patch"),
    [({}, {"sampled": []}, "prompt_tokens"), ({"x-woodshed-hooked": "1"}, {}, "sampled_logprobs")],
)
async def test_a_patch_without_effect_is_named(
    tmp_path: Path, headers: dict[str, str], logprobs: dict[str, Any], patch: str
) -> None:
    plain = server(tmp_path)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"choices": [{"logprobs": logprobs}]}, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(plain.url.rpartition(":")[2])).start()
    try:
        with pytest.raises(EngineError, match=f"patch '{patch}' has no effect"):
            await checked(plain)
    finally:
        await runner.cleanup()
