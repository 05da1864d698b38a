"""The engine: a policy served by vLLM behind a recording gateway, and its trainer.

Two halves live here. `config`, `client`, `local` and `provision` run beside the agent, without torch and vLLM.
`server` and `trainer` run in the engine's own environment, in processes of their own.
"""

from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.config import EngineConfig, ServedModel
from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.engine.client.provision import engine_python, install

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
