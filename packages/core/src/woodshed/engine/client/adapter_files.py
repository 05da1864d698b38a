"""Take a LoRA home: its files from the engine's machine into a folder here, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError
from woodshed.types import AdapterRef, StoredFile

NEEDED = ("adapter_config.json", "adapter_model.safetensors")
"""Files without which a folder holds no LoRA of PEFT's."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA as PEFT writes it."""
    return all((folder / name).is_file() for name in NEEDED)


async def fetch_adapter(client: EngineClient, policy: str, run_id: str, version: int | None, folder: Path) -> int:
    """Fetch a run's LoRA from the engine into `folder`, and return its version.

    The files come into a folder beside it, which is renamed once size and hash of each are those that the engine
    named. A `folder` that is there already is left as it is.

    Args:
        client: The engine that trained it; another run may hold the policy meanwhile.
        policy: The policy's name.
        run_id: The run.
        version: A version whose checkpoint the engine keeps; None is the newest.
        folder: Where to put it.

    Raises:
        EngineError: The engine keeps no such checkpoint, or a file came with other bytes than it named.
        EngineUnreachable: The connection broke.
        OSError: The disk refuses it.
    """
    listed = await client.adapter_files(policy, AdapterRef(run_id=run_id, version=version))
    if is_adapter(folder):
        return listed.version
    if missing := [name for name in NEEDED if name not in {file.name for file in listed.files}]:
        raise EngineError(f"the engine at {client.url} has no {missing} in version {listed.version} of {policy!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder.parent))
    try:
        for file in listed.files:
            await _fetch(client, policy, run_id, listed.version, file, aside)
        aside.chmod(0o755)  # mkdtemp's is for its owner alone
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return listed.version
    return listed.version


async def _fetch(client: EngineClient, policy: str, run_id: str, version: int, file: StoredFile, folder: Path) -> None:
    """Fetch one file, and check that it is the one that the engine named."""
    size, digest = 0, hashlib.sha256()
    with (folder / file.name).open("wb") as target:
        async with client.adapter_file(policy, run_id, version, file.name) as parts:
            async for part in parts:
                size += len(part)
                if size > file.size:
                    break
                digest.update(part)
                target.write(part)
    found = (size, digest.hexdigest())
    if found != (file.size, file.sha256):
        raise EngineError(
            f"{file.name} of version {version} came from {client.url} as {size} bytes with SHA-256 {found[1]}; "
            f"expected {file.size} bytes with {file.sha256}. Nothing was kept; ask again, and if that is of no use, "
            "the checkpoint on the engine's machine is damaged"
        )
