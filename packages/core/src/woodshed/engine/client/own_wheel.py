"""woodshed as it is installed here, packed into a wheel again: the engine needs this very copy, not a release of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from woodshed.errors import EngineError

_WRITTEN_BY_INSTALLERS = ("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json")
_REPAIR = "install woodshed anew with pip or uv, or run from a checkout"


def digest(distribution: importlib.metadata.Distribution) -> str:
    """Return a hash of the installed package: it changes with any file of it.

    Raises:
        EngineError: Its files cannot be listed, or one is missing.
    """
    whole = hashlib.sha256()
    for name, content in _files(distribution):
        whole.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return whole.hexdigest()


def pack(distribution: importlib.metadata.Distribution, folder: Path) -> Path:
    """Write the installed package as a wheel into `folder`, and return the file.

    Raises:
        EngineError: Its files cannot be listed, or one is missing.
    """
    stem = f"{distribution.metadata['Name'].replace('-', '_')}-{distribution.version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in _files(distribution):
            archive.writestr(name, content)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.writerow((name, f"sha256={hashed}", len(content)))
        rows.writerow((f"{stem}.dist-info/RECORD", "", ""))
        archive.writestr(f"{stem}.dist-info/RECORD", record.getvalue())
    return wheel


def _files(distribution: importlib.metadata.Distribution) -> Sequence[tuple[str, bytes]]:
    listed = distribution.files
    if not listed:
        raise EngineError(
            f"woodshed {distribution.version} is installed, but its metadata lists no files (no RECORD), so it "
            f"cannot be copied into the engine environment; {_REPAIR}"
        )
    names = sorted(path.as_posix() for path in listed if _belongs(path))
    return [(name, _read(distribution, name)) for name in names]


def _belongs(path: PurePosixPath) -> bool:
    """Whether a file came in the wheel; scripts, byte code and notes of the installer are made by whoever installs."""
    is_outside = path.parts[0] == ".." or path.is_absolute()
    is_note = path.parts[0].endswith(".dist-info") and path.name in _WRITTEN_BY_INSTALLERS
    return not (is_outside or is_note or path.suffix == ".pyc")


def _read(distribution: importlib.metadata.Distribution, name: str) -> bytes:
    place = Path(str(distribution.locate_file(name)))
    try:
        return place.read_bytes()
    except OSError as error:
        raise EngineError(
            f"woodshed cannot be copied into the engine environment: {str(place)!r}, a file of the installed package, "
            f"cannot be read ({error.strerror}); {_REPAIR}"
        ) from error
