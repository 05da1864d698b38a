"""The engine in front of a model server that runs already: `python -m woodshed.testing.conformance.attached_engine`.

Everything is the engine's own (gateway, sessions, store, control plane, trainer) but vLLM, which somebody else has
started: `woodshed.testing.conformance` puts a scripted one there. Standard output is that of `woodshed.engine`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import uvloop

from woodshed.engine.__main__ import tell
from woodshed.engine.client.config import EngineConfig
from woodshed.engine.run import run_engine
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.supervisor import Supervisor
from woodshed.errors import WoodshedError


def main() -> None:
    """Read the config and run."""
    parser = argparse.ArgumentParser(prog="python -m woodshed.testing.conformance.attached_engine", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="an EngineConfig as JSON")
    parser.add_argument("--upstream", required=True, help="address of the server that answers for every model")
    asked = parser.parse_args()
    try:
        uvloop.run(run_engine(EngineConfig.model_validate_json(asked.config.read_text()), tell, _at(asked.upstream)))
    except WoodshedError as error:
        tell("error", str(error))
        sys.exit(1)


class _Server(ModelServer):
    """A server that nobody here starts again."""

    async def has_died(self, generation: int, grace_s: float = 0.0) -> bool:
        """Say at once that it is the same server as before."""
        return False


def _at(url: str) -> type[Supervisor]:
    class Attached(Supervisor):
        """Servers that were up before the engine and stay up after it."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.servers = {
                name: _Server(server.model, self.logs, replica=server.replica) for name, server in self.servers.items()
            }

        async def start(self) -> None:
            """Let calls through at once."""
            for server in self.servers.values():
                server.url, server.vllm = url, "attached"
                server.mark_up()

        async def stop(self) -> None:
            """Leave the servers alone."""

    return Attached


if __name__ == "__main__":
    main()
