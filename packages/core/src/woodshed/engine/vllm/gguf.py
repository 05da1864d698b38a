"""GGUF files: made into model folders once, and kept by the hash of the file.

vLLM serves and PEFT trains folders with `config.json`, safetensors and a tokenizer. A GGUF file holds all of it in
another form, with quantised weights; transformers reads that form, and what it reads is written down in float32.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.fingerprint import whole_hash
from woodshed.engine.client.subprocesses import ended
from woodshed.errors import EngineError

ReportProgress = Callable[[str], None]

_LOG_LINES = 20


def cache_folder() -> Path:
    """Return the folder of converted models: `$WOODSHED_CACHE`, else woodshed's in the user's cache folder."""
    named = os.environ.get("WOODSHED_CACHE")
    return (Path(named).expanduser() if named else platformdirs.user_cache_path("woodshed", appauthor=False)) / "gguf"


async def converted(models: Sequence[ServedModel], progress: ReportProgress) -> tuple[ServedModel, ...]:
    """Return `models` with the folder of the converted model in place of every GGUF file.

    A file that was converted before is only hashed. The conversion takes the model's size in float32 of memory, in a
    process of its own, and as much of the disk: 4 bytes a weight.

    Raises:
        EngineError: a file is damaged, of an architecture that transformers does not know, or has no tokenizer.
    """
    return tuple(
        [
            model.model_copy(update={"path": str(await _folder(Path(model.path), progress))})
            if model.is_gguf()
            else model
            for model in models
        ]
    )


async def _folder(file: Path, progress: ReportProgress) -> Path:
    digest = await asyncio.to_thread(whole_hash, file)
    folder = cache_folder() / digest
    if (folder / "config.json").is_file():
        return folder
    progress(f"converting {file.name} (once; kept in {str(folder)!r})")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Aside and renamed: a killed conversion leaves nothing that looks like a model, and of two at once one wins.
    aside = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        for note in await _convert(file, aside):
            progress(f"{file.name}: {note}")
        try:
            aside.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


async def _convert(file: Path, folder: Path) -> list[str]:
    """Convert in a process of its own, whose memory is given back; return what is worth knowing about the model."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "woodshed.engine.vllm.convert_gguf", str(file), str(folder)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await ended(process)
        raise
    lines = output.decode(errors="replace").splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in told:
        raise EngineError(f"{str(file)!r} cannot be converted: {told['error']}")
    if process.returncode != 0 or "notes" not in told:
        last = "\n".join(errors.decode(errors="replace").splitlines()[-_LOG_LINES:])
        raise EngineError(
            f"{str(file)!r} cannot be converted: the conversion ended with exit status {process.returncode}"
            f"{' (out of memory?)' if process.returncode == -9 else ''}; its last lines:\n{last}"
        )
    return list(told["notes"])
