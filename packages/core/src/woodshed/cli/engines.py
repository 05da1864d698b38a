"""Run an engine in the foreground, for clients on other machines."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.local import Engine
from woodshed.errors import ConfigError


def parse_models(arguments: Sequence[str]) -> dict[str, ServedModel]:
    """Return the models of `NAME=PATH` arguments by name; the one called `policy` is trainable.

    Raises:
        ConfigError: an argument is not of the form NAME=PATH.
    """
    models = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--model {argument!r} cannot be read; expected NAME=PATH, such as policy=Qwen/Qwen3-4B")
        models[name] = ServedModel(name=name, path=path, trainable=name == "policy")
    return models


def serve_forever(
    *, models: Sequence[str], home: Path, host: str, port: int, api_key: str | None, allowed_hosts: Sequence[str] = ()
) -> None:
    """Start the engine and run it until Ctrl-C or SIGTERM."""
    engine = Engine.local(
        models=parse_models(models),
        home=home,
        host=host,
        port=port,
        api_key=api_key,
        allowed_hosts=allowed_hosts,
    )
    asyncio.run(_serve(engine.running(), Console(soft_wrap=True)))


async def _serve(running: contextlib.AbstractAsyncContextManager[object], console: Console) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with running as client:
        console.print(f"engine ready at [bold]{getattr(client, 'url', '')}[/]; stop it with Ctrl-C")
        await stop.wait()
    console.print("engine stopped")
