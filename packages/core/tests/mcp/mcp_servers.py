"""The servers of `examples/mcp`, as commands and over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[4] / "examples" / "mcp"
PYTHON = os.environ.get("WOODSHED_MCP_SERVERS_PYTHON", sys.executable)
"""Their interpreter. They are written with version 1 of the SDK, whatever version the client is tested with."""


def hostile(*switches: str) -> list[str]:
    """The command of the hostile server."""
    return [PYTHON, str(EXAMPLES / "hostile_server.py"), *switches]


def shop(folder: Path) -> list[str]:
    """The command of the shop's server, with a database in `folder`."""
    return [PYTHON, str(EXAMPLES / "shop_server.py"), "--db", str(folder / "shop.sqlite")]


@contextmanager
def over_http(command: list[str]) -> Iterator[str]:
    """Run a server over HTTP for one block and yield its address."""
    running = subprocess.Popen([*command, "--http"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert running.stdout is not None
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
