"""Processes as the system sees them: dying together, memory, free ports."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def die_with_parent(how: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `how` when the thread that started it ends (Linux; elsewhere nothing)."""
    if _libc is not None and hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)


def kill_group(leader: int) -> None:
    """Kill every process of a process group; one that is gone already is fine."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def free_port() -> int:
    """Return a loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tree(root: int) -> tuple[int, ...]:
    """Return `root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = _parent(int(entry.name))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry.name))
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        found.append(pid)
        open_.extend(children.get(pid, ()))
    return tuple(found)


def memory_mb(pids: tuple[int, ...]) -> float:
    """Return the resident memory of processes in MiB, with pages that several of them share counted once.

    The kernel's proportional set size is what does that: vLLM's processes are forks of one another.
    """
    return round(sum(_pss_kb(pid) for pid in pids) / 1024, 1)


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The process name stands in brackets and may hold anything, brackets included.
    return int(stat.rpartition(")")[2].split()[1])


def _pss_kb(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0
