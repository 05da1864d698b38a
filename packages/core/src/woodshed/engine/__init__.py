"""The engine: a policy served by vLLM behind a recording gateway, and its trainer.

Two halves live here. `config`, `client`, `local` and `provision` run beside the agent, without torch and vLLM.
`server` and `trainer` run in the engine's own environment, in processes of their own.
"""

from woodshed.engine.client import EngineClient
from woodshed.engine.config import EngineConfig, ServedModel
from woodshed.engine.local import ConnectedEngine, Engine, LocalEngine
from woodshed.engine.provision import engine_python, install

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
