"""A process that imports vLLM once and then forks vLLM servers from itself on request.

Importing vLLM takes longer than the rest of a small server's start, and a server that is started alone imports it two
or three times. A fork starts, or restarts, in seconds. It runs vLLM's own `main()` with an ordinary command line.

Commands come on standard input and events go to standard output, one JSON object per line. In:
`{"start", "argv", "env", "log"}` and `{"stop", "hard"}`. Out: `{"ready"}`, `{"started", "pid"}` and
`{"exited", "pid", "status"}`. The end of standard input ends the fork server and all its servers, and so does the end
of its parent, whose process id is the only argument.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.vllm import patches
from woodshed.engine.vllm.processes import die_with_parent, kill_group

_PRELOAD = ("vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.structured_output.backend_xgrammar")
_PRELOAD_CPU = ("vllm.v1.worker.cpu_worker", "vllm.model_executor.models.qwen3", "vllm.model_executor.models.qwen2")
_LONGEST_FOLDER = 107 - 1 - 36
"""Characters of a folder in which a socket with a UUID for its name can be: Linux takes paths of 107."""


def main() -> None:
    """Import vLLM, then follow commands until standard input ends."""
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM and its libraries print to standard output; that goes to the log.
    with scratch_folder("woodshed-vllm-") as folder:
        _put_sockets_into(folder)
        _serve(events)


def _serve(events: Any) -> None:
    run = _import_vllm()
    wake_out, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    signal.set_wakeup_fd(wake_in)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fork_server = _ForkServer(run, events, (wake_out, wake_in))
    try:
        fork_server.serve()
    finally:
        fork_server.kill_all()


def _put_sockets_into(folder: Path) -> None:
    """Have vLLM's processes meet in a folder that is removed; they leave their sockets behind in the system's own."""
    if len(str(folder)) > _LONGEST_FOLDER:
        print(f"{str(folder.parent)!r} is too long a path for sockets: vLLM's are not removed", file=sys.stderr)
        return
    os.environ.setdefault("VLLM_RPC_BASE_PATH", str(folder))


class _ForkServer:
    """The loop: reads commands, forks and stops servers, reports their end."""

    def __init__(self, run: Callable[[], None], events: Any, wake: tuple[int, int]) -> None:
        self._run = run
        self._events = events
        self._wake = wake
        self._names: dict[int, str] = {}

    def serve(self) -> None:
        self._send_event(ready=True)
        pending = b""
        while True:
            readable, _, _ = select.select([0, self._wake[0]], [], [])
            if self._wake[0] in readable:
                os.read(self._wake[0], 512)
                self._reap()
            if 0 in readable:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._follow(json.loads(line))

    def kill_all(self) -> None:
        for pid in self._names:
            kill_group(pid)

    def _follow(self, command: dict[str, Any]) -> None:
        if "start" in command:
            pid = os.fork()
            if pid == 0:
                self._become(command)
            self._names[pid] = command["start"]
            self._send_event(started=command["start"], pid=pid)
        else:
            for pid, name in self._names.items():
                if name == command["stop"]:
                    kill_group(pid) if command["hard"] else os.kill(pid, signal.SIGTERM)

    def _become(self, command: dict[str, Any]) -> NoReturn:
        """Turn this fork into the vLLM server of a start command."""
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._events.close()
            for end in self._wake:
                os.close(end)
            nothing = os.open(os.devnull, os.O_RDONLY)
            log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            os.environ.update(command["env"])
            sys.argv = ["vllm", *command["argv"]]
            self._run()
            status = 0
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else 1
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            # No interpreter shutdown: this fork shares its parent's exit handlers.
            os._exit(status)

    def _reap(self) -> None:
        for pid in tuple(self._names):
            exited_pid, status = os.waitpid(pid, os.WNOHANG)
            if exited_pid:
                # Its child processes have no use without it.
                kill_group(pid)
                self._send_event(exited=self._names.pop(pid), pid=pid, status=os.waitstatus_to_exitcode(status))

    def _send_event(self, **event: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._events.write(json.dumps(event) + "\n")


def _import_vllm() -> Callable[[], None]:
    """Import what a server needs, without starting a thread or using a device, and return vLLM's `main`."""
    warnings.simplefilter("ignore")
    platform = importlib.import_module("vllm.platforms").current_platform
    on_cpu = bool(platform.is_cpu())
    if on_cpu and "VLLM_WORKER_MULTIPROC_METHOD" not in os.environ:
        _fork_instead_of_spawn()
    for name in (*_PRELOAD, *(_PRELOAD_CPU if on_cpu else ())):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    patches.install()
    run: Callable[[], None] = importlib.import_module("vllm.entrypoints.launchers.api_server.entry").main
    # Each process dies with the one that forked it, however that ends. Not if a thread forked it: the kernel would then
    # send the signal at the end of the thread.
    os.register_at_fork(before=_remember_thread, after_in_child=_follow_parent)
    gc.collect()
    gc.freeze()
    return run


_forking = threading.local()


def _remember_thread() -> None:
    # In the child the forking thread is always the main thread, so this is checked before the fork.
    _forking.from_main = threading.current_thread() is threading.main_thread()
    _forking.pid = os.getpid()


def _follow_parent() -> None:
    if _forking.from_main:
        die_with_parent(_forking.pid)


def _fork_instead_of_spawn() -> None:
    """Make vLLM fork its engine core instead of spawning one that imports everything again.

    On a CPU vLLM uses `spawn` so that each worker reads its own OpenMP settings. Here the settings are the same for all
    (`VLLM_CPU_OMP_THREADS_BIND=nobind`), and no device has been initialised that a fork could break.
    """
    original = multiprocessing.get_context

    def get_context(method: str | None = None) -> Any:
        return original("fork" if method == "spawn" else method)

    multiprocessing.get_context = get_context


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
    main()
