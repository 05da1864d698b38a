"""One vLLM server as the rest of the engine uses it: where it listens, and whether calls can be sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from woodshed.engine.client.config import ServedModel
from woodshed.errors import EngineError

_RESTARTS_PER_WINDOW = 5
_WINDOW_S = 600.0


class ServerFiles(Protocol):
    """Files of the engine's machine where a server can read them."""

    async def bring(self, path: Path, name: str) -> str:
        """Return where a folder or a file is on the server's machine, once it is there under a name.

        Raises:
            EngineError: It cannot be brought there.
            aiohttp.ClientConnectionError: The server's machine is lost.
        """

    async def drop(self, name: str) -> None:
        """Remove what was brought under a name; nothing happens where it is gone already."""


class FilesHere:
    """Those of a server on the engine's machine, which reads them where they are."""

    async def bring(self, path: Path, name: str) -> str:
        """Return the path as it is."""
        return str(path)

    async def drop(self, name: str) -> None:
        """Keep it: it is the engine's own."""


class ModelServer:
    """One vLLM server: its address, whether calls can be sent, how often it was restarted."""

    def __init__(self, model: ServedModel, logs: Path, *, replica: int = 1) -> None:
        """Describe a server that is not started yet.

        Args:
            model: What it serves.
            logs: Folder of its log.
            replica: Its number among the servers of the model, from 1.
        """
        self.model = model
        self.replica = replica
        self.name = model.server_names()[replica - 1]
        self.log = logs / f"{self.name}.log"
        self.url = ""
        self.key = ""
        """What vLLM's port asks for; another one after each start."""
        self.pid: int | None = None
        """Of its process, on its own machine; None while there is none."""
        self.node: str | None = None
        """Address of the node of a cluster that it runs on; None for the engine's machine."""
        self.node_memory_mb = 0.0
        """What its node said last of its memory."""
        self.files: ServerFiles = FilesHere()
        self.vllm = ""
        self.max_model_len = model.max_model_len
        """Longest prompt plus answer in tokens; None until vLLM has said what the model's own limit is."""
        self.on_restart: Callable[[], None] = lambda: None
        """Called before each start that follows a death."""
        self.generation = 0
        """Counts the starts. A call remembers it, to know later whether the server it was sent to has died."""
        self.is_started = False
        """Whether it has started. If it dies before, the task that starts it reports that."""
        self.prepare: Callable[[], Awaitable[None]] | None = None
        """Run after each start and before the first call, to load the LoRA again."""
        self.fault: EngineError | None = None
        self._up = asyncio.Event()
        self._awake = asyncio.Event()
        self._awake.set()
        self._deaths: list[float] = []

    @property
    def headers(self) -> dict[str, str]:
        """Headers that every request to this server needs."""
        return {"authorization": f"Bearer {self.key}"}

    @property
    def is_ready(self) -> bool:
        """Whether calls can be sent right now."""
        return self._up.is_set() and self.fault is None

    async def ready(self) -> None:
        """Wait until calls can be sent.

        Raises:
            EngineError: The server was given up.
        """
        while not (self._up.is_set() and self._awake.is_set()):
            await self._up.wait()
            await self._awake.wait()
        if self.fault is not None:
            raise self.fault

    def is_alive_since(self, generation: int) -> bool:
        """Whether the start that `generation` counted has not died, as far as is known."""
        return self.generation == generation and self.is_ready

    async def has_died(self, generation: int, grace_s: float = 3.0) -> bool:
        """Return whether the start that `generation` counted has died, which may be known only some seconds later."""
        deadline = time.monotonic() + grace_s
        while self.is_alive_since(generation) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return not self.is_alive_since(generation)

    @property
    def is_asleep(self) -> bool:
        """Whether it is a trainer's turn on the GPU."""
        return not self._awake.is_set()

    async def awake(self) -> None:
        """Wait until it is vLLM's turn on the GPU (`gpu_turns`)."""
        await self._awake.wait()

    def mark_asleep(self) -> None:
        """Make calls wait until vLLM is awake; those that it is answering wait in vLLM itself."""
        self._awake.clear()

    def mark_awake(self) -> None:
        """Let calls be sent again."""
        self._awake.set()

    def mark_up(self) -> None:
        """Let calls be sent."""
        self._up.set()

    def mark_down(self) -> None:
        """Make calls wait until the next start."""
        self._up.clear()

    def give_up(self, fault: EngineError) -> None:
        """Raise `fault` in every waiting and later call."""
        self.fault = fault
        self._up.set()

    def may_restart(self) -> bool:
        """Count one death, and return whether there were few enough recently to restart."""
        now = time.monotonic()
        self._deaths = [time_s for time_s in self._deaths if now - time_s < _WINDOW_S] + [now]
        return len(self._deaths) <= _RESTARTS_PER_WINDOW

    def backoff_s(self) -> float:
        """Return how many seconds to wait before the next start."""
        return 0.0 if len(self._deaths) <= 1 else min(10.0, 0.5 * 2.0 ** len(self._deaths))
