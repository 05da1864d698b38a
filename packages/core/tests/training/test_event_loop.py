"""A training that is called from plain code runs inside a running event loop as it does without one."""

from __future__ import annotations

import _thread
import asyncio
import inspect
import signal
import threading
from contextvars import ContextVar

import pytest

import woodshed
from woodshed.errors import ConfigError
from woodshed.training.event_loop import run_to_end

here: ContextVar[str] = ContextVar("here", default="nowhere")


async def work(result: int = 7) -> tuple[int, str, asyncio.AbstractEventLoop]:
    await asyncio.sleep(0)
    return result, here.get(), asyncio.get_running_loop()


def test_without_a_loop_it_runs_in_this_thread() -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    assert run_to_end(thread()) is threading.current_thread()


async def test_inside_a_loop_it_runs_in_one_of_its_own_with_the_callers_context() -> None:
    here.set("in the notebook")
    result, seen, loop = run_to_end(work())

    assert (result, seen) == (7, "in the notebook")
    assert loop is not asyncio.get_running_loop()


async def test_what_it_raises_is_raised_here() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as raised:
        run_to_end(fails())
    assert any(frame.name == "fails" for frame in raised.traceback), "the user's own lines are in the traceback"


async def test_ctrl_c_cancels_the_work_and_waits_until_it_has_cleaned_up() -> None:
    cleaned = []
    handler = signal.getsignal(signal.SIGINT)
    if handler == signal.SIG_IGN:
        pytest.skip("the tests run in the background of a shell, where Ctrl-C is ignored")

    async def interrupted() -> None:
        try:
            asyncio.get_running_loop().call_later(0.05, _thread.interrupt_main)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_to_end(interrupted())
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGINT) == handler


async def test_a_training_that_cannot_work_says_so_inside_a_loop_too(tmp_path: object) -> None:
    settings = {
        "policy": woodshed.Policy(f"{tmp_path}/nothing"), "reward": woodshed.FunctionReward(lambda t: 1.0),
        "run_dir": f"{tmp_path}/r", "track": "wandbb",
    }  # fmt: skip

    for attempt in (woodshed.train, woodshed.Training):
        with pytest.raises(ConfigError, match="'wandbb', which is no tracker"):
            attempt(rollout=print, scenarios=["a"], **settings)
    with pytest.raises(ConfigError, match="'wandbb', which is no tracker"):
        await woodshed.train_async(print, ["a"], **settings)


async def test_train_async_has_the_arguments_of_train_and_takes_a_training_alone() -> None:
    training = woodshed.Training(
        rollout=print, scenarios=["a"], policy=woodshed.Policy("m"), reward=woodshed.FunctionReward(lambda t: 1.0)
    )

    assert inspect.signature(woodshed.train_async) == inspect.signature(woodshed.train)
    with pytest.raises(ConfigError, match="a Training and other arguments"):
        await woodshed.train_async(training, quiet=True)
    with pytest.raises(ConfigError, match=r"either config= or single settings, not both; found config and \['steps'\]"):
        await woodshed.train_async(
            print, ["a"], policy=woodshed.Policy("m"), reward=training.reward, config=training.config, steps=3
        )
