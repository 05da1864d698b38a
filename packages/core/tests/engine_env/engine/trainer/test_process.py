"""Promises of the trainer's process: it resumes after a kill, tells how it died, and never outlives its parent.

Each start of the process imports torch and transformers, which takes many seconds, so each test asserts several things.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from tiny_trainer import POLICY, SESSIONS, numbered, request

from woodshed.engine.client.config import Trainers
from woodshed.engine.trainer import Trainer
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.testing.waiting import eventually

pytestmark = pytest.mark.slow
LEARNING_RATE = POLICY.optimizer.learning_rate


@pytest.fixture(autouse=True)
def _one_thread_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit-identical sums need the same number of threads here and in the trainer's process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@asynccontextmanager
async def trainer(model_path: str, home: Path) -> AsyncIterator[Trainer]:
    found = Trainer(model_path, home, POLICY)
    try:
        yield found
    finally:
        await found.close()


async def test_a_trainer_killed_in_a_step_takes_it_again_with_bit_identical_weights(
    model_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = PolicyRun(Start(model_path=model_path, home=str(tmp_path / "straight"), policy=POLICY, parent_pid=0))
    for number in (1, 2, 3):
        straight.step(Step(request=numbered(number), sessions=SESSIONS))
    async with trainer(model_path, tmp_path / "killed") as of:
        first = await of.step(numbered(1), SESSIONS)
        assert await of.step(numbered(1), SESSIONS) == first
        await of.step(numbered(2), SESSIONS)
        with of.log.open("a") as log:
            log.write("the last line\n")
        victim = of.pid
        assert victim is not None
        os.kill(victim, signal.SIGSTOP)  # it cannot answer before it is killed
        waiting = asyncio.create_task(of.step(numbered(3), SESSIONS))
        await asyncio.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        third = await waiting
        survivor = of.pid
        assert survivor is not None
        os.kill(survivor, signal.SIGKILL)  # while it is idle, after its step
        again = await of.step(numbered(3), SESSIONS)
        killed = of.adapter_path(3)

    assert third.version == 3 and again == third
    assert len({victim, survivor}) == 2
    expected = straight.checkpoints.path(3) / "adapter" / "adapter_model.safetensors"
    assert (killed / "adapter_model.safetensors").read_bytes() == expected.read_bytes()
    said = next(m for m in caplog.messages if "exit status" in m)
    assert all(words in said for words in ("step 's3'", "exit status -9", "the last line", "started again"))


async def test_a_trainer_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    async with trainer("no/such/folder", tmp_path) as of:
        stepping = asyncio.create_task(of.step(numbered(1), SESSIONS))
        killed: set[int] = set()
        while not stepping.done():
            if (pid := of.pid) is not None and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
        with pytest.raises(TrainError, match=r"(?s)exit status -9.*died 3 times and is not started again"):
            await stepping

    assert len(killed) == 3


async def test_process_goes_on_after_a_failed_step_and_a_caller_that_left(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        assert (await of.start()).version == 0
        pid = of.pid
        with pytest.raises(TrainError, match="step 'bad': the loss is"):
            await of.step(request("bad", {"a0": 1e300}), SESSIONS)
        waiting = asyncio.create_task(of.step(numbered(1), SESSIONS))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        assert (await of.step(numbered(1), SESSIONS)).version == 1
        assert (await of.step(numbered(2), SESSIONS)).version == 2
        assert of.pid == pid
    assert of.pid is None
    assert pid is not None and not alive(pid)


async def test_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    async with trainer("no/such/folder", tmp_path) as of:
        with pytest.raises(TrainError, match="'no/such/folder' cannot be loaded"):
            await of.start()
        assert of.pid is None


async def test_trainer_dies_with_its_parent(model_path: str, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from woodshed.engine.trainer import Trainer\nfrom woodshed.types import OpenPolicy\n"
        "async def main():\n"
        "    trainer = Trainer(sys.argv[1], Path(sys.argv[2]), OpenPolicy(name='p'))\n"
        "    await trainer.start()\n    print(trainer.pid, flush=True)\n    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, model_path, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()

    await eventually(lambda: not alive(pid), "the trainer has ended", 5)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def test_a_rank_killed_in_a_step_costs_no_rollout_and_leaves_no_process(
    model_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = PolicyRun(Start(model_path=model_path, home=str(tmp_path / "straight"), policy=POLICY, parent_pid=0))
    for number in (1, 2):
        straight.step(Step(request=numbered(number), sessions=SESSIONS))
    of = Trainer(model_path, tmp_path / "shared", POLICY, trainers=Trainers(count=2))
    try:
        assert (await of.step(numbered(1), SESSIONS)).version == 1
        launcher, (first, second) = of.pid, ranks_of(of.pid)
        assert launcher is not None
        os.kill(second, signal.SIGSTOP)  # the first waits for its part of the gradient
        waiting = asyncio.create_task(of.step(numbered(2), SESSIONS))
        await asyncio.sleep(0.5)
        os.kill(second, signal.SIGKILL)
        report = await waiting
        again = ranks_of(of.pid)
        assert await of.step(numbered(2), SESSIONS) == report
        kept = of.adapter_path(2)
    finally:
        await of.close()

    assert report.version == 2 and report.metrics["rollouts"] == 8 and report.metrics["micro_batches"] == 2
    assert not {first, second, launcher} & {*again, of.pid}
    said = next(m for m in caplog.messages if "exit status" in m)
    assert "step 's2'" in said and f"trainer 2 of 2 (process {second}) ended with signal SIGKILL" in said
    of_two = load_file(kept / "adapter_model.safetensors")
    of_one = load_file(straight.checkpoints.path(2) / "adapter" / "adapter_model.safetensors")
    # Adam makes as large a step of a gradient near 0, of which rounding is a large part: a hundredth of one update.
    assert all((of_two[name] - weights).abs().max() < 1e-2 * LEARNING_RATE for name, weights in of_one.items())
    await eventually(lambda: not any(map(alive, (first, second, launcher, *again))), "no process is left", 5)


async def test_ranks_die_with_the_engine_and_a_model_that_none_can_load_is_named(
    model_path: str, tmp_path: Path
) -> None:
    missing = Trainer("no/such/folder", tmp_path / "missing", POLICY, trainers=Trainers(count=2))
    with pytest.raises(TrainError, match="'no/such/folder' cannot be loaded"):
        await missing.start()
    assert missing.pid is None
    of = Trainer(model_path, tmp_path / "there", POLICY, trainers=Trainers(count=2))
    try:
        await of.start()
        ranks, launcher = ranks_of(of.pid), of.pid
        assert launcher is not None and len(ranks) == 2
        os.kill(launcher, signal.SIGKILL)

        await eventually(lambda: not any(map(alive, ranks)), "the ranks have ended with their launcher", 5)
    finally:
        await of.close()


def ranks_of(launcher: int | None) -> list[int]:
    """Return the process ids of the ranks, the first one first."""
    ranks = {}
    for child in psutil.Process(launcher).children():
        if "RANK" in (environment := child.environ()):
            ranks[int(environment["RANK"])] = child.pid
    return [ranks[rank] for rank in sorted(ranks)]
