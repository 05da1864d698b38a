"""Promises of the end of a process: its status is told, and nothing of it is left open."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings

import pytest

from woodshed.engine.client.subprocesses import ended

_WITH_A_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("is_read", [False, True])
def test_no_pipe_is_left_open_where_a_descendant_lives_on_and_has_it_too(is_read: bool) -> None:
    async def program() -> tuple[int, int, bytes | None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WITH_A_CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        child = int(await process.stdout.readline())
        reading = asyncio.create_task(process.stdout.readline()) if is_read else None
        process.kill()
        status = await ended(process)
        return child, status, None if reading is None else await reading

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        child, status, read = asyncio.run(program())
        gc.collect()
    os.kill(child, signal.SIGKILL)

    assert status == -signal.SIGKILL and read == (b"" if is_read else None)
    assert [str(one.message) for one in found if one.category is ResourceWarning] == []
