"""The control plane's files: the LoRAs of runs, open or not, and the ends of the logs."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from woodshed.engine.control.responses import NotFound, parse_body, record_response
from woodshed.engine.trainer.checkpoint import Checkpoints
from woodshed.types import ID_PATTERN, AdapterFiles, AdapterRef, Logs, LogsRequest, StoredFile

_TAIL_BYTES = 2**20
"""As much of a log's end is read."""


class Files:
    """Answers requests for files under one engine's home."""

    def __init__(self, home: Path) -> None:
        """Serve the checkpoints under `home/policies` and the logs in `home/logs`."""
        self._home = home

    def posts(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """Return path → handler of the POST routes."""
        return {"/policies/{name:path}/adapter_files": self._adapter_files, "/logs": self._logs}

    def gets(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """Return path → handler of the GET routes."""
        return {"/policies/{name:path}/runs/{run_id}/adapters/{version:int}/{file}": self._adapter_file}

    async def _adapter_files(self, http_request: Request) -> Response:
        request = await parse_body(http_request, AdapterRef)
        checkpoints = self._checkpoints(http_request.path_params["name"], request.run_id)
        return record_response(await asyncio.to_thread(_listed, checkpoints, request))

    async def _adapter_file(self, http_request: Request) -> Response:
        named = http_request.path_params
        checkpoints = self._checkpoints(named["name"], named["run_id"])
        folder = checkpoints.path(named["version"]) / "adapter"
        # By the listing, so that no name leads out of the folder.
        if named["file"] not in {file.name for file in _files(folder)}:
            raise NotFound(f"version {named['version']} of run {named['run_id']!r} has no file {named['file']!r} here")
        return FileResponse(folder / named["file"], media_type="application/octet-stream")

    async def _logs(self, http_request: Request) -> Response:
        request = await parse_body(http_request, LogsRequest)
        logs = {file.name: file for file in sorted((self._home / "logs").glob("*.log"))}
        for policy in sorted((self._home / "policies").glob("*")):
            # The newest alone, which is that of the run that holds the policy or held it last.
            of_trainers = sorted(policy.glob("*/trainer.log"), key=lambda file: file.stat().st_mtime)
            logs |= {f"trainer-{policy.name}.log": file for file in of_trainers[-1:]}
        return record_response(Logs(texts={name: _end(file, request.lines) for name, file in logs.items()}))

    def _checkpoints(self, policy: str, run_id: str) -> Checkpoints:
        home = self._home / "policies" / policy / run_id
        is_named = re.fullmatch(ID_PATTERN, policy) and re.fullmatch(ID_PATTERN, run_id)
        if not is_named or not home.is_dir():
            raise NotFound(f"this engine has no checkpoint of policy {policy!r} for run {run_id!r}")
        return Checkpoints(home)


def _listed(checkpoints: Checkpoints, request: AdapterRef) -> AdapterFiles:
    kept = checkpoints.kept()
    version = request.version if request.version is not None else max(kept, default=-1)
    position = checkpoints.position(version) if version in kept else None
    if position is None:
        raise NotFound(
            f"this engine keeps no checkpoint of version {request.version} of run {request.run_id!r}; it has "
            f"{list(kept) or 'none'} (TrainConfig.keep_checkpoints)"
        )
    files = _files(checkpoints.path(version) / "adapter")
    return AdapterFiles(
        version=version,
        files=tuple(
            StoredFile(
                name=file.name,
                # As they were when the checkpoint was written: what was damaged since is found out.
                size=position.sizes.get(f"adapter/{file.name}", file.stat().st_size),
                sha256=position.hashes.get(f"adapter/{file.name}") or _hash(file),
            )
            for file in files
        ),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _end(file: Path, lines: int) -> str:
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        text = content.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
