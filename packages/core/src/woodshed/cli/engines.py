"""Run an engine in the foreground, for clients on this machine and on others."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.engine.client.config import LOOPBACK, ServedModel
from woodshed.engine.client.local import Engine, LocalEngine
from woodshed.engine.client.private_files import write_private
from woodshed.errors import ConfigError

_STILL_EVERY_S = 10.0
_KEY_FILE = "api_key"


def parse_models(
    arguments: Sequence[str], settings: Mapping[str, Sequence[str]] | None = None
) -> dict[str, ServedModel]:
    """Return the models of `NAME=PATH` arguments by name; the one called `policy` is trainable.

    Args:
        arguments: One `NAME=PATH` for each model.
        settings: Field of `ServedModel` → its values: `VALUE` for every model, or `NAME=VALUE` for one.

    Raises:
        ConfigError: An argument is not of the form NAME=PATH, or a model cannot have a setting.
    """
    paths = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--model {argument!r} cannot be read; expected NAME=PATH, such as policy=Qwen/Qwen3-4B")
        paths[name] = path
    return {name: _model(name, path, tuple(paths), settings or {}) for name, path in paths.items()}


def _model(name: str, path: str, names: Sequence[str], settings: Mapping[str, Sequence[str]]) -> ServedModel:
    fields: dict[str, Any] = {}
    for setting, values in settings.items():
        # A value for one model wins over one for all, in whatever order they are given.
        by_name = {owner: value for owner, value in (_split(value, names) for value in values)}
        if name in by_name or None in by_name:
            value = by_name[name] if name in by_name else by_name[None]
            fields[setting] = None if value == "none" else int(value) if value.isdigit() else value
    try:
        return ServedModel(**{"name": name, "path": path, "trainable": name == "policy", **fields})
    except ConfigError as error:
        problems = re.sub(r"ServedModel\.(\w+)", lambda field: f"--{field[1].replace('_', '-')}", str(error))
        raise ConfigError(f"model {name!r} cannot be served so: {problems}") from None


def _split(value: str, names: Sequence[str]) -> tuple[str | None, str]:
    owner, equals, rest = value.partition("=")
    return (owner, rest) if equals and owner in names else (None, value)


def serve_forever(
    *,
    models: Sequence[str],
    settings: Mapping[str, Sequence[str]],
    home: Path,
    host: str,
    port: int,
    api_key: str | None,
    allowed_hosts: Sequence[str] = (),
    trainers: int = 1,
    ray: str | None = None,
) -> None:
    """Start the engine and run it until Ctrl-C or SIGTERM, telling each phase on standard output."""
    console = Console(soft_wrap=True, highlight=False)
    served = parse_models(models, settings)
    key = api_key or (_own_key(home) if host in LOOPBACK else None)
    make = Engine.local if ray is None else partial(Engine.ray, ray)
    engine = make(
        models=served, home=home, host=host, port=port, api_key=key, allowed_hosts=allowed_hosts, trainers=trainers
    )
    asyncio.run(_serve(engine, console, is_own_key=api_key is None))


def _own_key(home: Path) -> str:
    """Return the key that an earlier start made in this home, or a new one: clients keep theirs over a restart."""
    file = home / _KEY_FILE
    key = file.read_text().strip() if file.is_file() else ""
    if not key:
        home.mkdir(parents=True, exist_ok=True)
        key = secrets.token_urlsafe(32)
        write_private(file, key + "\n")
    return key


async def _serve(engine: LocalEngine, console: Console, *, is_own_key: bool) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    console.print(f"starting the engine, logs in {engine.home}/logs", markup=False)
    for model in engine.models:
        console.print(f"  {model.name}: {model.path}" + (", trainable" if model.trainable else ""), markup=False)
    async with contextlib.AsyncExitStack() as stack:
        async with _telling(console, engine.home or Path()) as tell:
            starting = asyncio.create_task(stack.enter_async_context(engine.running(progress=tell)))
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait((starting,))
                console.print("engine stopped before it was ready")
                return
            client = starting.result()
        console.print(f"engine ready at {client.url}; stop it with Ctrl-C", markup=False)
        if is_own_key:
            console.print(f'connect: Engine.connect("{client.url}", api_key="{client.api_key}")', markup=False)
            console.print(f"the key is kept in {engine.home}/{_KEY_FILE}, readable by you alone", markup=False)
        else:
            console.print(f'connect: Engine.connect("{client.url}", api_key=...)', markup=False)
        await stop.wait()
    console.print("engine stopped")


@asynccontextmanager
async def _telling(console: Console, home: Path) -> AsyncIterator[_Telling]:
    telling = _Telling(console)
    waiting = asyncio.create_task(telling.tell_waiting(home))
    try:
        yield telling
    finally:
        waiting.cancel()


class _Telling:
    """Prints progress with the seconds since the start, and that it still waits where nothing new happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = self._last = time.monotonic()
        self._phase = "starting the engine's process"

    def __call__(self, message: str) -> None:
        self._phase, self._last = message, time.monotonic()
        self._print(message)

    async def tell_waiting(self, home: Path) -> None:
        """Say every few seconds of silence what the engine is still doing."""
        self(self._phase)
        while True:
            await asyncio.sleep(0.5)
            if time.monotonic() - self._last >= _STILL_EVERY_S:
                self._last = time.monotonic()
                self._print(f"still at it: {self._phase} (details: {home}/logs)")

    def _print(self, message: str) -> None:
        self._console.print(f"[{time.monotonic() - self._began:4.0f} s] {message}", markup=False)
