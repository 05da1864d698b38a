"""`woodshed ray up`, `status` and `down`: thin words over Ray's own commands, in the engine's environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from woodshed.engine.client.ray_commands import RayNode

ray_app = typer.Typer(
    help="A Ray cluster for `Engine.ray`: `ray start`, `ray status` and `ray stop` of the engine's environment.",
    no_args_is_help=True,
)
_More = Annotated[
    list[str] | None,
    typer.Argument(help="Ray's own arguments, after --.", metavar="[-- ARGUMENTS]", show_default=False),
]
_PACKAGES = {"woodshed": "woodshed", "vllm": "vLLM", "torch": "torch", "ray": "Ray"}
_OPEN = (
    "Whoever reaches Ray's ports can run programs on all nodes: keep them in a private network. Ray has tokens, too: "
    "`ray get-auth-token --generate`, before `up`, and the same ~/.ray/auth_token on each machine."
)


@ray_app.command()
def up(
    address: Annotated[
        str | None, typer.Option(help="The head node to join, such as 10.0.0.1:6379; default: become the head.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where a head node listens.")] = 6379,
    more: _More = None,
) -> None:
    """Start Ray on this machine: a cluster's head node, or a node that joins one. Prints what to type next.

    \b
    woodshed engine install --ray            first, on every machine
    woodshed ray up                          on the first machine: the head node
    woodshed ray up --address 10.0.0.1:6379  on each further machine
    woodshed ray up -- --num-cpus=8          with arguments of `ray start`; with --block, in the foreground

    Then train on the head's machine with engine=woodshed.Engine.ray("auto").
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.engine.client.ray_commands import join, start_head

    if address is not None:
        join(address, more or ())
        typer.echo(f"this machine is a node of the cluster at {address}\n  all nodes:       woodshed ray status")
    else:
        head = start_head(port, more or ())
        typer.echo(
            f"Ray's head node runs here, at {head}\n"
            f"  next machine:    woodshed ray up --address {head}\n"
            '  train from here: engine=woodshed.Engine.ray("auto")\n'
            "  all nodes:       woodshed ray status"
        )
        typer.echo(_OPEN)
    typer.echo("  stop this node:  woodshed ray down")


@ray_app.command()
def status(
    address: Annotated[str | None, typer.Option(help="The cluster; default: the one of this machine.")] = None,
    more: _More = None,
) -> None:
    """Show a cluster: what `ray status` says, and each node's versions of woodshed, vLLM, torch and Ray.

    All nodes need the same ones.
    """
    from rich.console import Console

    from woodshed.engine.client.ray_commands import cluster_status, nodes

    typer.echo(cluster_status(address, more or ()))
    found = nodes(address)
    console = Console(soft_wrap=True, highlight=False)
    console.print(node_table(found))
    for line in differences(found):
        console.print(line, style="bold red", markup=False)


@ray_app.command()
def down(more: _More = None) -> None:
    """Stop this machine's node: `ray stop`, which stops all that Ray runs on this machine. With -- --force, kill it."""
    from woodshed.engine.client.ray_commands import stop_node

    typer.echo(stop_node(more or ()).strip())


def node_table(nodes: Sequence[RayNode]) -> Table:
    """Return one row for each node."""
    from rich.table import Table

    table = Table("node", "CPUs", "GPUs", *_PACKAGES.values())
    for node in nodes:
        versions = ["no answer" if node.versions is None else node.versions[name] or "none" for name in _PACKAGES]
        table.add_row(node.address, f"{node.cpus:g}", f"{node.gpus:g}", *versions)
    return table


def differences(nodes: Sequence[RayNode]) -> list[str]:
    """Return a line for each package that is not the same on all nodes, or that one of them lacks.

    Builds of one version for a CPU and for a GPU are the same: a head without a GPU is usual.
    """
    lines = []
    for package, name in _PACKAGES.items():
        where: dict[str | None, list[str]] = {}
        for node in nodes:
            if node.versions is not None:
                version = node.versions[package]
                where.setdefault(version and version.partition("+")[0], []).append(node.address)
        if len(where) > 1 or None in where:
            found = "; ".join(f"{version or 'none'} on {', '.join(on)}" for version, on in where.items())
            lines.append(
                f"{name} is not the same on all nodes: {found}. Run 'woodshed engine install --ray' of one woodshed "
                "on each, then start its node again"
            )
    return lines
