"""The class of the Ray actors. It travels with its code, so that it can speak on a node with another woodshed."""

from __future__ import annotations

from typing import Any


def actor_class() -> type:
    """Return the class of a worker's actor. Nothing in it may need woodshed before `load`."""

    class RolloutWorker:
        """Runs rollouts on a node of the cluster."""

        def __init__(self) -> None:
            self.host: Any = None

        async def describe(self) -> dict[str, Any]:
            """Return where this is, and the versions of woodshed and its adapters here; None where it is missing."""
            import os
            import socket
            from importlib import metadata

            versions: dict[str, str | None] = {"woodshed": None}
            for found in metadata.distributions():
                if (name := str(found.metadata["Name"])).startswith("woodshed-"):
                    versions[name] = found.version
            try:
                import woodshed

                versions["woodshed"] = str(woodshed.__version__)
            except ImportError:
                pass
            return {"node": socket.gethostname(), "pid": os.getpid(), "versions": versions}

        async def load(self, parcel: bytes, rollouts: int) -> dict[str, str] | None:
            """Unpack the rollout function; return what is wrong, if something is."""
            import traceback

            try:
                from woodshed.training.rollouts.worker import AgentHost

                self.host = AgentHost(parcel, rollouts)
            except ModuleNotFoundError as error:
                return {"missing": str(error.name), "text": traceback.format_exc()}
            except BaseException as error:
                return {"error": f"{type(error).__name__}: {error}", "text": traceback.format_exc()}
            return None

        async def reach(self, url: str) -> str | None:
            """Return why nothing answers at an address, or None if something does."""
            import httpx

            try:
                async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
                    await http.get(url)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                return f"{type(error).__name__}: {error}"
            return None

        async def run(self, scenario: bytes, rollout: dict[str, Any], timeout_s: float) -> str:
            """Run the agent once; see `AgentHost.run`."""
            return str(await self.host.run(scenario, rollout, timeout_s))

        async def end(self) -> str:
            """Stop what runs; see `AgentHost.end`."""
            return str(await self.host.end())

    return RolloutWorker
