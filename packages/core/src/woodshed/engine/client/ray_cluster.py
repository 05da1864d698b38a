"""What is known of a Ray cluster without Ray: how one is named, and whether the engine's environment has Ray."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from woodshed.errors import ConfigError

LOCAL = "local"
"""The address of a cluster that the engine starts on its own machine, and ends with itself."""


_ANSWERS_WITHIN_S = 10.0


def check_address(address: str) -> None:
    """Check that an engine can join a cluster by this address.

    Raises:
        ConfigError: It is empty, or one of Ray's client, whose process is outside of the cluster.
    """
    if not address.strip():
        raise ConfigError("ray is '', which names no cluster; expected 'auto', 'local' or such as '10.0.0.1:6379'")
    if address.startswith("ray://"):
        raise ConfigError(
            f"ray is {address!r}: the engine must run on a machine of the cluster, because weights go through that "
            "machine's object store. Join this machine with `woodshed ray up --address HEAD:6379` (with "
            "-- --num-cpus=0 --num-gpus=0 no replica comes here) and use 'auto'"
        )


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of an address such as `10.0.0.1:6379` or `[::1]:6379`; None for `auto` and all else."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() else None


def knock(address: str) -> None:
    """Check that something listens where an address has a host and a port.

    Ray itself would try for minutes, and then ends the process that asked.

    Raises:
        ConnectionError: Nothing does.
    """
    if (parts := host_and_port(address)) is None:
        return
    try:
        socket.create_connection(parts, timeout=_ANSWERS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from error


def check_has_ray(python: Path) -> None:
    """Check that an engine environment has Ray.

    Raises:
        ConfigError: It has none.
    """
    asked = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ray') is None)"
    if subprocess.run([str(python), "-c", asked], check=False, stdin=subprocess.DEVNULL).returncode:
        raise ConfigError(no_ray(python))


def no_ray(python: Path | str) -> str:
    """Return what is said where an environment has no Ray."""
    return (
        f"an engine on a Ray cluster needs Ray in its environment, and {str(python)!r} has none; "
        "'woodshed engine install --ray' adds it, on every machine of the cluster"
    )
