"""Sampled answers, tried with every tool parser of vLLM in a process of its own: the engine's never imports vLLM."""

from __future__ import annotations

import asyncio
import json
import os
import sys

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.subprocesses import ended
from woodshed.errors import EngineError
from woodshed.types import ReadCalls, ReadCallsRequest

_WITHIN_S = 300.0
_LOG_LINES = 5


async def read_calls(model: ServedModel, request: ReadCallsRequest) -> ReadCalls:
    """Return which parsers read calls in the answers; importing vLLM takes most of the time.

    Raises:
        EngineError: The parsers could not be tried.
    """
    offline = {} if model.is_hub_name() else {"HF_HUB_OFFLINE": "1"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "woodshed.engine.vllm.read_calls", model.path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | offline | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(request.model_dump_json().encode()), _WITHIN_S)
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await ended(process)
        if isinstance(error, asyncio.CancelledError):
            raise
        raise EngineError(f"trying the tool parsers on {model.name!r} took more than {_WITHIN_S:.0f} s") from error
    if process.returncode != 0:
        last = "\n".join(errors.decode(errors="replace").splitlines()[-_LOG_LINES:])
        raise EngineError(f"the tool parsers could not be tried on {model.name!r}; the last lines were:\n{last}")
    return ReadCalls.model_validate(json.loads(output.decode().splitlines()[-1]))
