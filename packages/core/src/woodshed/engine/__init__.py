"""The engine: a policy served by vLLM behind a recording gateway, and its trainer.

`client` runs beside the agent, without torch and vLLM. All else runs in the engine's own environment: `gateway` (the
OpenAI-compatible API), `control` (the API a training uses), `vllm` (the model servers) and `trainer` (a process for
each policy). `run` puts them together.
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
