"""The fork server never outlives the engine, however early that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.engine.vllm import fork_server
from woodshed.testing.waiting import eventually

# The engine is gone before the fork server asks the kernel to be told of it. Its standard input stays open: here the
# test holds it, in life a sibling that inherited it.
_DIES_AT_ONCE = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=2)
print(child.pid, flush=True)
os._exit(0)
"""
_LATE = """
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.001)
from woodshed.engine.vllm import fork_server
fork_server._import_vllm = lambda: None
fork_server.main()
"""
_FORKED_LATE = """
import os, sys, time
from woodshed.engine.vllm import fork_server
fork_server._remember_thread()
parent = os.getpid()  # before the fork: it may be gone by the time its child asks
if os.fork() == 0:
    os.write(1, f"{os.getpid()}\\n".encode())
    while os.getppid() == parent:
        time.sleep(0.001)
    fork_server._follow_parent()
    time.sleep(600)
os._exit(0)
"""


@pytest.mark.parametrize("code", [[_DIES_AT_ONCE, _LATE], [_FORKED_LATE]], ids=["fork server", "its server"])
async def test_a_parent_that_died_before_it_was_asked_for_ends_its_child(code: list[str]) -> None:
    kept_open, held = os.pipe()
    try:
        parent = subprocess.Popen([sys.executable, "-c", *code], stdin=kept_open, stdout=subprocess.PIPE, text=True)
        assert parent.stdout is not None
        orphan = int(parent.stdout.readline())
        parent.wait()
        await eventually(lambda: not _is_alive(orphan), "the orphan has ended", 10)
    finally:
        os.close(held)
        os.close(kept_open)
        parent.stdout.close()


@pytest.mark.parametrize(
    ("folder", "asked", "expected"),
    [("/tmp/woodshed-vllm-1", None, "/tmp/woodshed-vllm-1"), ("/tmp/woodshed-vllm-1", "/run/own", "/run/own"),
     ("/" + 70 * "x", None, None)],
    ids=["short", "the user's own", "too long"],
)  # fmt: skip
def test_sockets_lie_in_a_folder_that_is_removed_unless_their_paths_would_be_too_long(
    folder: str,
    asked: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", asked or "")
    if asked is None:
        monkeypatch.delenv("VLLM_RPC_BASE_PATH")
    fork_server._put_sockets_into(Path(folder))

    assert os.environ.get("VLLM_RPC_BASE_PATH") == expected
    assert ("too long a path for sockets" in capfd.readouterr().err) == (expected is None)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
