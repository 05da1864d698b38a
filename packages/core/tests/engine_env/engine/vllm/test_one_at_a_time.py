"""On a GPU one vLLM starts after the other: each measures the card's memory as it starts. Without one, all at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm import supervisor
from woodshed.engine.vllm.supervisor import Supervisor


@pytest.mark.parametrize(("gpus", "together"), [((), 2), (("0",), 1)])
async def test_how_many_servers_start_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], together: int
) -> None:
    starting, most = 0, 0

    async def start(*_: Any) -> None:
        nonlocal starting, most
        starting += 1
        most = max(most, starting)
        await asyncio.sleep(0.05)
        starting -= 1

    async def nothing(*_: Any) -> None:
        """Stand in for calls to a vLLM that this test does not have."""

    monkeypatch.setattr(supervisor, "gpu_ids", lambda: gpus)
    monkeypatch.setattr(Supervisor, "_start", start)
    monkeypatch.setattr(supervisor, "check_patches", nothing)
    monkeypatch.setattr(supervisor, "warm_up", nothing)
    models = [ServedModel(name=name, path="m") for name in ("policy", "judge")]
    async with aiohttp.ClientSession() as http:
        engine = Supervisor(models, tmp_path, http, lambda _: None)
        await asyncio.gather(*(engine._launch(server) for server in engine.servers.values()))

    assert most == together
    assert all(server.is_ready for server in engine.servers.values())
