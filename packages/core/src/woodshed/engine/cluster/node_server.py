"""A replica's own corner of a node: a Ray actor that runs its vLLM server there, and holds its files."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.gpus import gpu_ids
from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.vllm.first_calls import tail
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.processes import memory_mb, tree
from woodshed.engine.vllm.server_processes import LocalProcesses

_MEMORY_EVERY_S = 5.0
_GPU_FRACTION = 0.9
"""Share of a GPU's memory where the model sets none: unlike on the engine's machine, no trainer shares the card."""


class NodeServer:
    """Starts one vLLM server on its node, tells of its end, and keeps adapters in a folder that is the node's own."""

    def __init__(self, model: ServedModel, replica: int, *, host: str, sharing: int) -> None:
        """Prepare; nothing runs yet.

        Args:
            model: What is served, with paths of this node.
            replica: Its number among the model's replicas.
            host: Address that vLLM listens on.
            sharing: How many replicas share this node's cores.
        """
        self._until_closed = ExitStack()
        self._scratch = self._until_closed.enter_context(scratch_folder("woodshed-node-"))
        self._replica = replica
        self._host = host
        self._sharing = sharing
        self._gpu = bool(gpu_ids())
        if self._gpu and "gpu_memory_fraction" not in model.model_fields_set:
            model = model.model_copy(update={"gpu_memory_fraction": _GPU_FRACTION})
        self._model = model
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._server: ModelServer | None = None
        self._processes: LocalProcesses | None = None
        self._measuring: asyncio.Task[None] | None = None

    async def start(self, paths: Mapping[str, str]) -> tuple[str, str, int]:
        """Start vLLM and return its address, its key and its process id; `paths` replaces settings of the model."""
        if self._processes is None:
            model = self._model.model_copy(update=dict(paths))
            self._server = ModelServer(model, self._scratch, replica=self._replica)
            self._processes = LocalProcesses(
                [self._server],
                self._ended,
                logs=self._scratch,
                progress=lambda _: None,
                gpu=self._gpu,
                devices={},  # Ray shows an actor its own GPUs alone
                sharing=self._sharing,
                host=self._host,
            )
            self._measuring = asyncio.create_task(self._measure())
        assert self._server is not None
        pid = await self._processes.start(self._server)
        return self._server.url, self._server.key, pid

    async def stop(self, hard: bool) -> None:
        """Ask vLLM to end, or kill it."""
        if self._processes is not None and self._server is not None:
            self._processes.stop(self._server, hard=hard)

    async def next_event(self) -> dict[str, Any]:
        """Wait for what is to be told: `{"exited", "pid", "log"}` or `{"memory_mb"}`."""
        return await self._events.get()

    async def write(self, name: str, files: Mapping[str, bytes]) -> str:
        """Write files into a folder of this node and return it."""
        folder = self._scratch / "files" / name
        await asyncio.to_thread(_write, folder, files)
        return str(folder)

    async def remove(self, name: str) -> None:
        """Remove a folder that was written."""
        await asyncio.to_thread(shutil.rmtree, self._scratch / "files" / name, ignore_errors=True)

    async def close(self) -> None:
        """End vLLM and remove all files."""
        if self._measuring is not None:
            self._measuring.cancel()
        if self._processes is not None:
            await self._processes.close()
        self._until_closed.close()

    def _ended(self, server: ModelServer, reason: str) -> None:
        self._events.put_nowait({"exited": reason, "log": f"({server.log} of the node)\n{tail(server.log)}\n"})

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(_MEMORY_EVERY_S)
            if self._server is not None and (pid := self._server.pid) is not None:
                processes = await asyncio.to_thread(tree, pid)
                self._events.put_nowait({"memory_mb": await asyncio.to_thread(memory_mb, processes)})


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files aside and rename, so that no reader finds half of them."""
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name, content in files.items():
        (aside / name).write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
