"""The folder of a run: which it is, whether what is in it is a run, and that one process works in it at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from woodshed.errors import ConfigError
from woodshed.training.run.settings import read_settings
from woodshed.training.run.source import Source

_LOCK = "run.lock"
_DESKTOP = {".DS_Store", ".directory", "Thumbs.db", "desktop.ini", "lost+found"}
"""Files that a desktop or a file system puts into any folder."""


@contextmanager
def run_folder(
    run_dir: Path | str | None, *, name: str, fresh: bool, source: Source | None = None, console: Console | None = None
) -> Iterator[Path]:
    """Yield the folder of `open_folder`, locked against other processes for the block.

    Raises:
        ConfigError: also if another process is running in the folder.
    """
    folder = open_folder(run_dir, name=name, fresh=fresh, source=source, console=console)
    with _locked(folder):
        yield folder


def open_folder(
    run_dir: Path | str | None, *, name: str, fresh: bool, source: Source | None = None, console: Console | None = None
) -> Path:
    """Return the run's folder, made if it is missing; with `fresh`, the run that is in it is renamed and said so.

    Args:
        run_dir: The folder; None means one under `runs/` that no other function's run is in.
        name: The run's name.
        fresh: Whether to put a run that is there aside.
        source: The rollout function, to find its own folder where `run_dir` is None.
        console: Where it is said which folder it is, if that may surprise.

    Raises:
        ConfigError: the path is a file, cannot be written, or is a folder that contains something other than a run.
    """
    console = console or Console(soft_wrap=True)
    folder = Path(run_dir) if run_dir is not None else _default_folder(name, source, console)
    try:
        if folder.is_file():
            raise ConfigError(f"run_dir {str(folder)!r} is a file; expected a folder that a run may fill")
        content = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        foreign = {entry for entry in content if entry not in _DESKTOP and not entry.startswith("._")}
        if foreign and not _holds_run(folder):
            raise ConfigError(
                f"run_dir {str(folder)!r} is not empty and holds no run of woodshed (there is {min(foreign)!r}); "
                "choose an empty or new folder"
            )
        if foreign and fresh:
            with _locked(folder):
                aside = _set_aside(folder)
            _say(console, f"the run that was in {folder} is now in {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _default_folder(name: str, source: Source | None, console: Console) -> Path:
    """Return the function's folder under `runs/`; one that another function of this name has taken is left to it."""
    runs = Path("runs")
    first = runs / name
    if source is None or _is_free(first, source):
        return first
    stem = "other" if source.file is None else source.file.stem
    digest = hashlib.sha256(repr(source.described(runs)).encode()).hexdigest()[:8]
    folder = next((f for f in (runs / f"{name}-{stem}", runs / f"{name}-{stem}-{digest}") if _is_free(f, source)), None)
    owner = read_settings(first / "config.json")["rollout"]
    if folder is None:
        raise ConfigError(f"{str(first)!r} holds the run of {_named(owner)}; choose another folder (run_dir=)")
    _say(
        console,
        f"{first} holds the run of another function, {_named(owner)}; this run is in {folder}. If the function has "
        f"only been moved or renamed, resume its run with run_dir={str(first)!r} (`--run-dir {first}`)",
    )
    return folder


def _is_free(folder: Path, source: Source) -> bool:
    file = folder / "config.json"
    return not file.is_file() or source.matches(read_settings(file).get("rollout"), folder.parent)


def _named(owner: dict[str, Any]) -> str:
    return f"{owner['name']!r}" + (f" of {os.path.normpath(Path('runs', owner['file']))}" if owner.get("file") else "")


def _holds_run(folder: Path) -> bool:
    # Not config.json, which many other folders have, too.
    return any((folder / name).exists() for name in ("run.sqlite", _LOCK))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        lock = (folder / _LOCK).open("a+")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"process {lock.read().strip() or 'unknown'} is at work on the run in {str(folder)!r}; two would "
                "damage it. Wait until it ends, stop it, or choose another run_dir"
            ) from None
        except OSError:
            pass  # the file system has no locks
        # A note for the message above, which a full disk may do without.
        with suppress(OSError):
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield


def refuse_running(folder: Path) -> None:
    """Raise ConfigError where a process is at work on the run in `folder`; nothing is written."""
    try:
        lock = (folder / _LOCK).open()
    except OSError:
        return  # nobody has ever worked in it, or it cannot be read: others will say so
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"process {lock.read().strip() or 'unknown'} is at work on the run in {str(folder)!r}, which may "
                "replace its checkpoints at any time. Wait until it ends, or stop it: the run can be resumed"
            ) from None
        except OSError:
            pass  # the file system has no locks


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"run_dir {str(folder)!r} cannot be written: {error.strerror}; choose another folder")


def _set_aside(folder: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = folder.with_name(f"{folder.name}-{stamp}")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}-{stamp}-{number}")
    folder.rename(target)
    return target


def _say(console: Console, message: str) -> None:
    console.print(message, markup=False, highlight=False)
