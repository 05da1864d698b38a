"""The engine: a policy served by vLLM behind a recording gateway, and its trainer.

`client` runs beside the agent, without torch and vLLM. All else runs in the engine's own environment: `gateway` (the
OpenAI-compatible API), `control` (the API a training uses), `vllm` (the model servers) and `trainer` (a process for
each policy). `run` puts them together.

Names are imported on first use (docs/decisions/0003-lazy-public-face.md): trainers and servers need no HTTP client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from woodshed.lazy import on_first_use

if TYPE_CHECKING:
    from woodshed.engine.client.client import EngineClient
    from woodshed.engine.client.config import EngineConfig, ServedModel
    from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
    from woodshed.engine.client.provision import engine_python, install

_HOME = {
    "ConnectedEngine": "client.local",
    "Engine": "client.local",
    "EngineClient": "client.client",
    "EngineConfig": "client.config",
    "LocalEngine": "client.local",
    "ServedModel": "client.config",
    "engine_python": "client.provision",
    "install": "client.provision",
}

__all__ = [
    "ConnectedEngine",
    "Engine",
    "EngineClient",
    "EngineConfig",
    "LocalEngine",
    "ServedModel",
    "engine_python",
    "install",
]


if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
