"""The engine's process on this machine, as its client starts it, follows it and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from woodshed.engine.client.config import EngineConfig
from woodshed.engine.client.private_files import write_private
from woodshed.engine.client.subprocesses import ended
from woodshed.errors import EngineError

ReportProgress = Callable[[str], None]

_STOP_WITHIN_S = 15.0
_LOG_LINES = 20


async def spawn(python: Path, config: EngineConfig) -> asyncio.subprocess.Process:
    """Start the engine that `config` describes."""
    logs = config.home / "logs"
    logs.mkdir(exist_ok=True)
    file = config.home / "engine.json"
    write_private(file, config.model_dump_json(indent=2))  # it holds the API key
    with (logs / "engine.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *(str(python), "-m", "woodshed.engine", "--config", str(file)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # Ctrl-C reaches only this process, which then stops the engine.
            start_new_session=True,
            env=engine_environment(python),
        )


def engine_environment(python: Path) -> dict[str, str]:
    """Return the engine's environment variables: ours, without those that would make it import our packages."""
    foreign = {"PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    if str(python) != sys.executable and "WOODSHED_ENGINE_PYTHON" not in os.environ:
        foreign.add("PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in foreign}


async def until_ready(process: asyncio.subprocess.Process, log: Path, progress: ReportProgress) -> str:
    """Return the engine's address once it is ready.

    Raises:
        EngineError: It cannot serve, or has ended; carries what it said, or the last lines of its log.
    """
    async for kind, message in _events(process):
        if kind == "ready":
            return message
        if kind == "error":
            raise EngineError(message)
        progress(message)
    code = await ended(process)
    lines = deque(log.read_text(errors="replace").splitlines(), maxlen=_LOG_LINES)
    raise EngineError(
        f"the engine ended with exit status {code} before it was ready; last lines of {str(log)!r}:\n"
        + "\n".join(lines)
    )


async def follow(process: asyncio.subprocess.Process, progress: ReportProgress) -> None:
    """Pass on what the engine says, until it ends."""
    async for _, message in _events(process):
        progress(message)


async def _events(process: asyncio.subprocess.Process) -> AsyncIterator[tuple[str, str]]:
    assert process.stdout is not None
    async for line in process.stdout:
        with contextlib.suppress(ValueError):
            for kind, message in json.loads(line).items():
                yield kind, message


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask the engine to stop, and kill it if it does not; its own children end with it either way."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(ended(process), _STOP_WITHIN_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await ended(process)
