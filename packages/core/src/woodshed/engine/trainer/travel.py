"""What goes between an engine and a trainer on another machine, which share no file system: the files of one policy.

The trainer works in a scratch folder that stands for the policy's. What it writes there comes back with each answer,
and is kept where the policy is at home before the answer is passed on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from woodshed.engine.client.fingerprint import fingerprint
from woodshed.engine.trainer.checkpoint import Checkpoints, Position
from woodshed.engine.trainer.log_ratios import FOLDER as LOG_RATIOS
from woodshed.engine.trainer.worker_protocol import Answer, Start, Step
from woodshed.errors import TrainError

Files = dict[str, bytes]
"""Path, relative to a folder → content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What a policy is opened with, on whichever machine."""

    start: Start
    base: str | None
    """Fingerprint of the base model's folder; None for a name on the hub, which each machine resolves by itself."""
    version: int | None = None
    """That of the newest checkpoint; None where there is none."""
    checkpoint: Files = field(default_factory=dict)
    adapter: Files = field(default_factory=dict)
    """The LoRA that a policy without a checkpoint starts from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a trainer has written since its last answer."""

    position: bytes
    files: Files
    """Those of a new checkpoint; none where only the position of the newest has changed."""
    log_ratios: Files


def opening(start: Start) -> Opening:
    """Read what a policy starts from, on the engine's machine.

    Raises:
        TrainError: The newest checkpoint is damaged.
    """
    checkpoints = Checkpoints(Path(start.home))
    checkpoints.clean()
    base = fingerprint(start.model_path)
    if kept := checkpoints.kept():
        return Opening(start=start, base=base, version=kept[-1], checkpoint=_read(checkpoints.path(kept[-1])))
    adapter = start.policy.adapter
    return Opening(start=start, base=base, adapter={} if adapter is None else _read(Path(adapter).expanduser()))


def keep(written: Written, home: Path, asked: Step | None) -> None:
    """Keep in the policy's folder what a trainer has written, as the trainer itself does on the engine's machine.

    Args:
        written: What came with an answer.
        home: The policy's folder.
        asked: The step that was answered; None for the start.

    Raises:
        OSError: The disk refuses it.
    """
    for name, content in written.log_ratios.items():
        file = home / LOG_RATIOS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}")
        aside.write_bytes(content)
        aside.replace(file)
    checkpoints, position = Checkpoints(home), Position.model_validate_json(written.position)
    write = partial(_write, written.files)
    if not written.files:
        checkpoints.restate(position)
    elif asked is None:
        checkpoints.save(position, write)
    else:
        request = asked.request
        checkpoints.save(position, write, newest=request.keep_checkpoints, also=request.keep_version)


def check_base(opened: Opening, node: str) -> None:
    """Check that this machine has the base model that the engine serves.

    Args:
        opened: What the policy is opened with.
        node: What to call this machine in an error.

    Raises:
        TrainError: It has none under that path, or another one.
    """
    if opened.base is None:
        return
    path = opened.start.model_path
    if (found := fingerprint(path)) is None:
        raise TrainError(
            f"node {node} of the Ray cluster has no model in {path!r}, the folder of the policy's base model on the "
            "engine's machine. Each node on which a trainer may run needs a copy under the same path; or name the "
            "model by its name on the hub"
        )
    if found != opened.base:
        raise TrainError(
            f"node {node} of the Ray cluster has another model in {path!r} than the engine's machine: fingerprint "
            f"{found}, expected {opened.base}. Copy the folder there again"
        )


class Away:
    """The folder in which a trainer works, and what to send home of it."""

    def __init__(self, folder: Path, opened: Opening) -> None:
        """Lay out the files of a policy in an empty folder."""
        self._home, adapter = folder / "home", folder / "adapter"
        self._checkpoints = Checkpoints(self._home)
        start = opened.start
        self._sent_position = b""
        self._sent_version = opened.version
        self._sent_log_ratios: set[str] = set()
        if opened.version is not None:
            _write(opened.checkpoint, self._checkpoints.path(opened.version))
            self._sent_position = self._position(opened.version)
        self._names = {str(self._home): str(Path(start.home).absolute())}
        policy = start.policy
        if policy.adapter is not None:
            _write(opened.adapter, adapter)
            self._names[str(adapter)] = policy.adapter
            policy = policy.model_copy(update={"adapter": str(adapter)})
        self.start = start.model_copy(update={"home": str(self._home), "policy": policy})
        """The first question, for a trainer that works in this folder."""

    def at_home(self, answer: Answer) -> bytes:
        """Return an answer as JSON, in which a path has the name that it has on the engine's machine."""
        return self._renamed(answer.model_dump_json().encode())

    def written(self) -> Written | None:
        """Return what was written since the last call; None where nothing was."""
        kept = self._checkpoints.kept()
        if not kept or (position := self._position(kept[-1])) == self._sent_position:
            return None
        is_new = kept[-1] != self._sent_version
        log_ratios = {n: c for n, c in _read(self._home / LOG_RATIOS).items() if n not in self._sent_log_ratios}
        self._sent_position, self._sent_version = position, kept[-1]
        self._sent_log_ratios |= log_ratios.keys()
        files = _read(self._checkpoints.path(kept[-1])) if is_new else {}
        files.pop("position.json", None)
        return Written(position=self._renamed(position), files=files, log_ratios=log_ratios)

    def _position(self, version: int) -> bytes:
        return (self._checkpoints.path(version) / "position.json").read_bytes()

    def _renamed(self, text: bytes) -> bytes:
        for here, there in self._names.items():
            text = text.replace(here.encode(), json.dumps(there)[1:-1].encode())
        return text


def _read(folder: Path) -> Files:
    """Return all files below a folder; none where there is no such folder."""
    found = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def _write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
