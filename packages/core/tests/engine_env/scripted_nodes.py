"""Node servers whose vLLM is a scripted one, in the actor's own process: they die with their node as vLLM does."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from scripted_servers import ScriptedServer

from woodshed.engine.cluster.node_server import NodeServer

_pids = itertools.count(10_000_000)  # of no process: nobody may send them a signal


class _ReadsAdapters(ScriptedServer):
    """One that reads an adapter's files where it is told to load them from."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.read: dict[str, tuple[str, dict[str, bytes]]] = {}

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        folder = Path(body["lora_path"])
        self.read[body["lora_name"]] = (str(folder), {file.name: file.read_bytes() for file in folder.iterdir()})
        return await super()._load(request)


class ScriptedNode(NodeServer):
    """The actor as the engine uses it, and what a test asks of it."""

    _one: _ReadsAdapters | None = None

    async def start(self, paths: Mapping[str, str]) -> tuple[str, str, int]:
        if self._one is None:
            self._one = _ReadsAdapters(self._model, self._replica, self._scratch)
        await self._one.start()
        return self._one.server.url, "key", next(_pids)

    async def stop(self, hard: bool) -> None:
        assert self._one is not None
        await self._one.die()
        self._ended(self._one.server, "exit status -9" if hard else "exit status 0")

    async def close(self) -> None:
        if self._one is not None:
            await self._one.die()
        await super().close()

    async def told(self) -> dict[str, Any]:
        """Return what it has loaded, from where, how many calls it got, and which files lie there now."""
        assert self._one is not None
        return {
            "pid": os.getpid(),
            "loaded": list(self._one.loaded),
            "read": dict(self._one.read),
            "asked": len(self._one.asked),
            "files": sorted(str(file.relative_to(self._scratch)) for file in self._scratch.rglob("*.safetensors")),
        }

    async def refuse(self, times: int) -> None:
        assert self._one is not None
        self._one.refuses = times

    async def hold(self) -> None:
        assert self._one is not None
        self._one.holds.clear()
