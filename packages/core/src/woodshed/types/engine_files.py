"""Requests and responses about files on the engine's machine: a run's LoRA, and the logs."""

from __future__ import annotations

from pydantic import Field

from woodshed.types.record import Record

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names of policies and runs; each is the name of a folder, too, and can't lead out of the one above it."""


class AdapterRef(Record):
    """Request for the files of a run's LoRA."""

    run_id: str = Field(pattern=ID_PATTERN)
    version: int | None = Field(default=None, ge=0)
    """A version whose checkpoint the engine keeps; None is the newest."""


class StoredFile(Record):
    """One file of a LoRA."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str


class AdapterFiles(Record):
    """A LoRA as the engine stores it; each file is fetched by its name."""

    version: int
    files: tuple[StoredFile, ...]


class LogsRequest(Record):
    """Request for the ends of the engine's logs."""

    lines: int = Field(default=100, ge=1, le=10_000)


class Logs(Record):
    """The ends of the engine's logs."""

    texts: dict[str, str]
    """File name → its last lines."""
