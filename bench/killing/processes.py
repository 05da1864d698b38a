"""The processes of a training: which is which, holding one still, killing it, and what is left of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

Known = frozenset[psutil.Process]


def tree(root: int) -> Known:
    """Return a process and all its living descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        return frozenset([process, *process.children(recursive=True)])
    return frozenset()


def child_running(root: int, module: str) -> int | None:
    """Return the descendant of `root` that was started with `python -m MODULE`, the oldest where it has forked."""
    for process in sorted(tree(root), key=lambda p: p.pid):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if module in process.cmdline() and module not in (process.parent() or process).cmdline():
                return int(process.pid)
    return None


def named(root: int, name: str) -> int | None:
    """Return the descendant of `root` that runs the program of that name."""
    for process in tree(root):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.name() == name:
                return int(process.pid)
    return None


def rank(root: int, number: int) -> int | None:
    """Return the descendant of `root` that is one of several trainers, by its number from 0."""
    for process in tree(root):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.environ().get("RANK") == str(number):
                return int(process.pid)
    return None


def is_computing(pid: int) -> bool:
    """Whether one of a process's threads is on a processor or waits for one."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "R":
                    return True
    return False


def hold(pid: int, *, group: bool = False) -> None:
    """Stop a process (or its whole group) where it is, and return once it stands still."""
    _send(pid, signal.SIGSTOP, group)
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.0005)


def release(pid: int, *, group: bool = False) -> None:
    """Let a process go on; one that is dead is fine."""
    _send(pid, signal.SIGCONT, group)


def kill(pid: int) -> None:
    """Kill a process as `kill -9` does."""
    _send(pid, signal.SIGKILL, False)


def orphans(before: Iterable[psutil.Process], client: int | None, within_s: float = 10.0) -> tuple[list[str], float]:
    """Return the names of processes that outlive those they belonged to for `within_s`, and when the last one was gone.

    Args:
        before: The training's processes at the kill.
        client: The client, if it is alive: its own descendants are no orphans.
        within_s: How long they may take to notice.
    """
    clock = time.monotonic()
    while True:
        own = tree(client) if client is not None else frozenset()
        left = [p for p in before if _is_alive(p) and p not in own]
        took = time.monotonic() - clock
        if not left or took > within_s:
            return [_name(p) for p in left], took
        time.sleep(0.05)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return f"{process.name()} ({' '.join(process.cmdline())[:80]})"
    return "one that is gone now"


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _send(pid: int, number: signal.Signals, group: bool) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number) if group else os.kill(pid, number)
