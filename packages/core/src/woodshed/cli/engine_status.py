"""`woodshed engine status` and `restart`: the vLLM servers behind a running engine, over its API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from woodshed.types import EngineHealth, ReplicaHealth

_ENGINE = Annotated[str, typer.Option(help="Address of a running engine.")]
_KEY = Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")]


def status(
    engine: _ENGINE = "http://127.0.0.1:8900",
    api_key: _KEY = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the engine's whole answer as JSON.")] = False,
) -> None:
    """Show a running engine's vLLM servers: state, calls in flight, rollouts, prefix cache, starts, memory."""
    from rich.console import Console

    from woodshed.engine.client.client import EngineClient

    async def fetch() -> EngineHealth:
        async with EngineClient(engine, api_key) as client:
            return await client.health()

    health = asyncio.run(fetch())
    if as_json:
        typer.echo(health.model_dump_json(indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(status_table(health))
    for model in health.models:
        if model.swap_s is not None:
            console.print(f"{model.name}: the last swap of its weights took {model.swap_s:.2f} s")
        if model.moved_sessions:
            console.print(f"{model.name}: {model.moved_sessions} rollouts were moved to another replica on the way")
    console.print(
        f"{health.failed_calls} failed calls, {health.rss_mb / 1024:.1f} GiB with all that the engine started"
    )


def restart(
    server: Annotated[str, typer.Argument(help="Name of a server as `status` shows it, such as policy#2.")],
    engine: _ENGINE = "http://127.0.0.1:8900",
    api_key: _KEY = None,
) -> None:
    """Restart one vLLM server of a running engine: it gets no new call, finishes those it has, and starts again."""
    from woodshed.engine.client.client import EngineClient
    from woodshed.errors import ConfigError

    model, _, number = server.partition("#")
    if number and not number.isdigit():
        raise ConfigError(f"there is no server {server!r}; `woodshed engine status` shows them, such as policy#2")

    async def ask() -> ReplicaHealth:
        async with EngineClient(engine, api_key) as client:
            return await client.restart_replica(model, int(number or 1))

    replica = asyncio.run(ask())
    typer.echo(f"{replica.name} is {replica.state} after its start number {replica.starts}")


def status_table(health: EngineHealth) -> Table:
    """Return one row for each vLLM server."""
    from rich.table import Table

    table = Table("server", "state", "in flight", "rollouts", "calls", "cached calls", "cached prompt", "starts", "MiB")
    for model in health.models:
        for one in model.replicas:
            name = one.name if one.node is None else f"{one.name} on {one.node}"
            table.add_row(
                name, one.state, str(one.in_flight), str(one.sessions), str(one.calls), _percent(one.cached_calls),
                _percent(one.cached_tokens), str(one.starts), f"{one.rss_mb:.0f}",
            )  # fmt: skip
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
