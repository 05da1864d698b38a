"""The LoRAs of a run on this machine: in its folder, where its engine works, or fetched from an engine elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from woodshed.engine.client.adapter_files import fetch_adapter, is_adapter
from woodshed.engine.client.client import EngineClient
from woodshed.training.run.storage import storage
from woodshed.training.run.store import RunStore

FETCHED = "adapters"
"""Folder in a run's with the LoRAs that were fetched: `adapters/00003` is that of version 3."""


def adapter_on_this_machine(folder: Path, run_id: str, version: int, checkpoints: str | None = None) -> Path | None:
    """Return the folder of a version's LoRA; None if it is on the engine's machine only, or nowhere.

    Args:
        folder: The run's folder, which may have been moved since.
        run_id: The run's id on its engine.
        version: Version of the weights.
        checkpoints: Where the engine said that it keeps the run's checkpoints.
    """
    name, folder = f"{version:05d}", folder.absolute()
    places = [
        folder / FETCHED / name,
        *(folder / "engine" / "policies").glob(f"*/{run_id}/checkpoints/{name}/adapter"),
        *([Path(checkpoints) / name / "adapter"] if checkpoints else []),
    ]
    return next((place for place in places if is_adapter(place)), None)


def adapter_of(store: RunStore, version: int) -> Path | None:
    """Return the folder of a version's LoRA on this machine; None if it isn't here."""
    return adapter_on_this_machine(store.folder, store.run_id(), version, store.fact("checkpoints"))


async def take_home(client: EngineClient, store: RunStore, policy: str, versions: Iterable[int]) -> list[Path]:
    """Fetch the LoRAs of some versions into the run's folder, unless they lie in it already; return what was fetched.

    Raises:
        EngineError: The engine no longer keeps one of them, or the connection broke.
        StorageError: The disk refuses it; the run can be resumed, and fetches them then.
    """
    home, fetched = store.folder.absolute(), []
    for version in sorted(set(versions)):
        found = adapter_of(store, version)
        if found is not None and found.absolute().is_relative_to(home):
            continue
        with storage(store.folder / FETCHED):
            target = store.folder / FETCHED / f"{version:05d}"
            await fetch_adapter(client, policy, store.run_id(), version, target)
        fetched.append(target)
    return fetched
