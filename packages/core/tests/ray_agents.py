"""Agents for the tests of rollout workers. Workers import this module by name, so nothing here may need pytest."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import openai

import woodshed
from woodshed.capture import CALL_ID_HEADER, ToolSpan, current_rollout, model_span, require_rollout


class Refused(Exception):
    """An exception that cannot be unpickled: it takes two arguments and passes on one."""

    def __init__(self, what: str, how: str) -> None:
        super().__init__(f"{what}, {how}")
        self.lock = threading.Lock()


async def _ask(text: str) -> str:
    here = current_rollout()
    assert here is not None
    with model_span(here, author_model="gpt", agent="clerk") as call:
        async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret, max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": text}],
                extra_headers={CALL_ID_HEADER: call.call_id},
            )
    return str(answer.choices[0].message.content)


def _ask_sync(text: str) -> str:
    here = current_rollout()
    assert here is not None
    with openai.OpenAI(base_url=here.base_url, api_key=here.secret, max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    return str(answer.choices[0].message.content)


async def works(text: str) -> Any:
    said = await _ask(text)
    with ToolSpan(current_rollout(), tool_call_id="t1", name="look", arguments={"item": text}) as span:  # type: ignore[arg-type]
        span.ended(f"7 of {said}")
    return {"said": said, "metrics": {"length": len(said), "odd": float("inf")}}


async def returns_no_json(text: str) -> Any:
    return {"metrics": {"length": len(await _ask(text))}, "lock": threading.Lock()}


async def fails(text: str) -> None:
    await _ask(text)
    raise Refused("no", "never")


async def fails_by_the_engine(text: str) -> None:
    raise woodshed.errors.RequestRefused("the engine will not")


async def swallows_our_error(text: str) -> str:
    here = current_rollout()
    assert here is not None
    here.fail(woodshed.ConfigError("a setting that cannot be"))
    return "went on"


async def takes_too_long(text: str) -> None:
    await _ask(text)
    await asyncio.sleep(600)


async def leaves(text: str) -> None:
    raise SystemExit(3)


async def leaks(text: str) -> str:
    """Call a model from a thread that has lost the rollout."""
    import contextvars

    found: list[str] = []

    def lost() -> None:
        try:
            contextvars.Context().run(require_rollout, "M.ask()")
        except woodshed.LeakError as error:
            found.append(str(error))

    await asyncio.to_thread(lost)
    return found[0]


def is_sync(text: str) -> str:
    return _ask_sync(text)


def warns(text: str) -> str:
    logging.getLogger("woodshed.capture").warning("setting %r is dropped", text)
    logging.getLogger("woodshed.capture").debug("nobody asked for this")
    return _ask_sync(text)


AGENTS = {
    f.__name__: f
    for f in (works, returns_no_json, fails, fails_by_the_engine, swallows_our_error, takes_too_long, leaves, leaks)
}


async def by_name(name: str) -> Any:
    """Run the agent of that name on itself."""
    return await AGENTS[name](name)


async def says_where(text: str) -> dict[str, Any]:
    await _ask(text)
    return {"pid": os.getpid()}


async def dies_once(marker: str) -> dict[str, Any]:
    """Ask the model, then end this process, unless it has done so before."""
    before = await _ask("before")
    path = Path(marker)
    if path.suffix == ".dies" and not path.exists():
        path.write_text(f"{current_rollout().secret}")  # type: ignore[union-attr]
        await asyncio.sleep(0.5)  # the others are running by now
        os.kill(os.getpid(), signal.SIGKILL)
    if path.suffix != ".dies":
        await asyncio.sleep(1.0)  # lost with the one that dies, where they share a worker
    return {"pid": os.getpid(), "said": before}


async def always_dies(name: str) -> str:
    if name == "deadly":
        await asyncio.sleep(0.2)
        os._exit(1)
    await asyncio.sleep(0.5)
    return await _ask(name)


async def blocks(name: str) -> str:
    if name == "blocks":
        time.sleep(600)
    await asyncio.sleep(0.3)
    return await _ask(name)


async def waits(folder: str) -> None:
    begun, ended = Path(folder, "begun"), Path(folder, "ended")
    try:
        begun.write_text(str(os.getpid()))
        await asyncio.sleep(600)
    finally:
        ended.write_text("")


async def in_another_time(text: str) -> str:
    """Run where the clock is an hour ahead."""
    real = time.time
    time.time = lambda: real() + 3600.0
    try:
        return await _ask(text)
    finally:
        time.time = real


async def waits_for(path: str) -> dict[str, int]:
    """Say that this rollout has begun, and go on once there is a file."""
    here = current_rollout()
    assert here is not None
    Path(path).with_name(f"begun-{here.rollout_id}").write_text("")
    while not Path(path).exists():
        await asyncio.sleep(0.05)
    await _ask("go")
    return {"pid": os.getpid()}
