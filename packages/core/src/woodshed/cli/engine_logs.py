"""`woodshed engine logs`: the ends of an engine's logs, over its API."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def logs(
    engine: Annotated[str, typer.Option(help="Address of a running engine.")] = "http://127.0.0.1:8900",
    api_key: Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")] = None,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="Lines of each log, counted from its end.")] = 100,
) -> None:
    """Show the ends of a running engine's logs: its own, vLLM's and the trainer's."""
    from woodshed.engine.client.client import EngineClient
    from woodshed.types import LogsRequest

    async def fetch() -> dict[str, str]:
        async with EngineClient(engine, api_key) as client:
            return (await client.logs(LogsRequest(lines=lines))).texts

    for name, text in asyncio.run(fetch()).items():
        typer.echo(f"== {name}\n{text}\n")
