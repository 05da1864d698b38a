"""Processes as the system sees them: dying together, memory, free ports."""

from __future__ import annotations

import ctypes
import os
import signal
import socket

import psutil

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None


def die_with_parent(parent: int, how: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `how` when the thread that started it ends (Linux; elsewhere nothing).

    A parent that died before it was asked is never told of. So this process ends at once if `parent` is gone already.
    """
    if _libc is not None and hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def kill_group(leader: int) -> None:
    """Kill every process of a process group; one that is gone already is fine."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port of one of this machine's addresses that nobody listens on right now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def tree(root: int) -> tuple[int, ...]:
    """Return `root` and all its living descendants."""
    try:
        return (root, *(child.pid for child in psutil.Process(root).children(recursive=True)))
    except psutil.NoSuchProcess:
        return (root,)


def memory_mb(pids: tuple[int, ...]) -> float:
    """Return the resident memory of processes in MiB, with pages that several of them share counted once.

    The kernel's proportional set size is what does that: vLLM's processes are forks of one another. Where a system
    knows none (macOS), shared pages count for each process.
    """
    return round(sum(_memory_bytes(pid) for pid in pids) / 2**20, 1)


def _memory_bytes(pid: int) -> int:
    """Return one process's share of memory; 0 for one that is gone or belongs to somebody else."""
    try:
        memory = psutil.Process(pid).memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", memory.rss))
