"""Which model a folder holds, told by its bytes: the same folder copied to another machine is the same model."""

from __future__ import annotations

import hashlib
from pathlib import Path

_CHUNK = 2**16
_CHUNKS = 16


def fingerprint(folder: str | Path) -> str | None:
    """Return a hash of a model's config, weight index and weights; None where `folder` is no model's folder.

    Of each weight file it reads the size, the head and 1 MiB spread over the rest: two trainings of one base model
    differ there, and a file of many gigabytes is read in a moment.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        return None
    whole = hashlib.sha256()
    files = sorted([folder / "config.json", *folder.glob("*.index.json"), *_weights(folder)])
    for file in files:
        whole.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        whole.update(file.read_bytes() if file.suffix == ".json" else _samples(file))
    return whole.hexdigest()[:16]


def file_hash(file: str | Path) -> str | None:
    """Return a hash of a file; None where there is no such file."""
    path = Path(file).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def whole_hash(file: Path) -> str:
    """Return the SHA-256 of all of a file's bytes; a gigabyte takes about a second."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _weights(folder: Path) -> list[Path]:
    return [file for pattern in ("*.safetensors", "*.bin", "*.gguf") for file in folder.glob(pattern)]


def _samples(file: Path) -> bytes:
    """Return a file's first 64 KiB and as much of 16 places spread over it, its end included."""
    last = max(0, file.stat().st_size - _CHUNK)
    parts = []
    with file.open("rb") as content:
        for place in sorted({last * k // _CHUNKS for k in range(_CHUNKS + 1)}):
            content.seek(place)
            parts.append(content.read(_CHUNK))
    return b"".join(parts)
