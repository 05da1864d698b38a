"""The end of a process that asyncio has started."""

from __future__ import annotations

import asyncio

_LOOK_EVERY_S = 0.01


async def ended(process: asyncio.subprocess.Process) -> int:
    """Wait until a process has ended, close its pipes, and return its exit status.

    `process.wait()` of Python 3.11 may wait for the pipes' ends, too, which never come while a descendant has them; and
    where it doesn't, the pipes stay open, and an event loop that is gone by then never closes them.
    """
    while process.returncode is None:
        await asyncio.sleep(_LOOK_EVERY_S)
    transport: asyncio.SubprocessTransport = getattr(process, "_transport")  # noqa: B009 - it has no public name
    transport.close()
    await asyncio.sleep(0)  # asyncio closes them in the loop's next round
    return process.returncode
