"""Ray's own commands, run from the engine's environment: start a node, ask the cluster, stop the node."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from woodshed.engine.client.provision import engine_python
from woodshed.engine.client.ray_cluster import host_and_port, knock, no_ray
from woodshed.errors import ConfigError, EngineError, EngineUnreachable

PORT = 6379
"""Where Ray's head node listens unless another port is asked for."""
_ASK = "woodshed.engine.client.ray_nodes"
_LAST_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class RayNode:
    """One node of a cluster, by its own word."""

    address: str
    cpus: float
    gpus: float
    versions: dict[str, str | None] | None
    """Package → its version in the environment that Ray runs in there, None where it lacks it; None in all where the
    node did not answer."""


def start_head(port: int = PORT, more: Sequence[str] = ()) -> str:
    """Start a cluster's head node on this machine, and return the address that other machines join.

    Args:
        port: Where it listens.
        more: Further arguments of `ray start`; they win over those given here. With `--block`, this process becomes
            Ray's and ends with the node.

    Raises:
        EngineError: Ray does not start; carries the last lines of what it says.
    """
    # No dashboard: it takes jobs, which are programs to run, from whoever reaches it.
    own = ("--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats")
    said = _start(*own, *more)
    address = re.search(r"ray start --address='(.+?)'", said)
    if address is None:
        raise EngineError(f"Ray has started and does not say at which address; it said:\n{_end(said)}")
    return address[1]


def join(address: str, more: Sequence[str] = ()) -> None:
    """Start a node on this machine that joins the cluster at `address`.

    Raises:
        ConfigError: The address is none.
        EngineUnreachable: Nothing listens there.
        EngineError: Ray does not start; carries the last lines of what it says.
    """
    ray_program()
    _check_listens(address)
    _start(f"--address={address}", "--disable-usage-stats", *more)


def cluster_status(address: str | None = None, more: Sequence[str] = ()) -> str:
    """Return what `ray status` says of the cluster at `address`; by default of the one that this machine belongs to.

    Raises:
        ConfigError: The address is none.
        EngineUnreachable: Nothing listens there.
        EngineError: There is no cluster, or it does not answer.
    """
    ray_program()
    if address is not None:
        _check_listens(address)
        return _run("status", f"--address={address}", *more)
    try:
        return _run("status", *more)
    except EngineError as error:
        raise EngineError(f"{error}\n`woodshed ray up` starts a cluster here or joins one") from None


def stop_node(more: Sequence[str] = ()) -> str:
    """Stop all that Ray runs on this machine, and return what `ray stop` says.

    Raises:
        EngineError: Something does not stop.
    """
    return _run("stop", *more)


def nodes(address: str | None = None) -> list[RayNode]:
    """Return the living nodes of a cluster, each with the versions in its environment. Starts a worker on each.

    Raises:
        EngineError: The cluster does not answer.
    """
    asked = subprocess.run(
        [str(engine_python()), "-m", _ASK, address or "auto"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if asked.returncode:
        raise EngineError(f"the cluster's nodes cannot be asked for their versions:\n{_end(asked.stderr)}")
    return [RayNode(**node) for node in json.loads(asked.stdout.splitlines()[-1])]


def ray_program() -> Path:
    """Return the program `ray` of the engine's environment.

    Raises:
        EngineMissing: There is no such environment.
        ConfigError: Ray is not installed in it.
    """
    python = engine_python()
    program = python.with_name("ray")
    if not program.is_file():
        raise ConfigError(no_ray(python))
    return program


def _check_listens(address: str) -> None:
    """Check that something listens at an address, for which Ray itself would wait for minutes."""
    if host_and_port(address) is None:
        raise ConfigError(f"{address!r} is no address of a Ray cluster; expected HOST:PORT, such as 10.0.0.1:{PORT}")
    try:
        knock(address)
    except ConnectionError as error:
        raise EngineUnreachable(
            f"nothing answers at {address!r} ({error}); `woodshed ray up` on the first machine says which address to "
            "join, and the machines must reach each other on all ports"
        ) from None


def _start(*arguments: str) -> str:
    if "--block" not in arguments:
        return _run("start", *arguments)
    # For whatever watches a process, as a container does: Ray's own, in the foreground, ends with its node.
    program = str(ray_program())
    os.execv(program, [program, "start", *arguments])


def _run(*arguments: str) -> str:
    program = ray_program()
    done = subprocess.run(
        [str(program), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
        start_new_session=True,  # where it cannot start, Ray kills its process group, and this process would be in it
    )  # fmt: skip
    if done.returncode:
        raise EngineError(f"`ray {' '.join(arguments)}` ended with {done.returncode}:\n{_end(done.stdout)}")
    return done.stdout


def _end(text: str) -> str:
    """Return the last lines; of a traceback, what follows its frames."""
    lines = [line for line in text.splitlines() if line.strip()]
    frames = [k for k, line in enumerate(lines) if line.startswith(("Traceback (", "  File "))]
    if frames:
        after = next((k for k in range(frames[-1] + 1, len(lines)) if not lines[k].startswith(" ")), len(lines) - 1)
        lines = lines[after:]
    return "\n".join(lines[-_LAST_LINES:])
