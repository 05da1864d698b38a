"""Promises of the trainer's process: checkpoints, resuming, idempotent steps, and dying well."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from etude.engine.trainer import Trainer
from etude.errors import TrainError
from etude.types import LoraSettings, OpenPolicy, OptimizerSettings, StepReport
from safetensors.torch import load_file
from tiny_trainer import group, request

SESSIONS = {**group("a"), **group("b")}
POLICY = OpenPolicy(name="p", optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=1))


@asynccontextmanager
async def trainer(model_path: str, home: Path, policy: OpenPolicy = POLICY) -> AsyncIterator[Trainer]:
    found = Trainer(model_path, home, policy)
    try:
        yield found
    finally:
        await found.close()


async def step(of: Trainer, number: int) -> StepReport:
    sign = 1.0 if number % 2 else -1.0
    advantages = {name: sign * [1.0, -0.5, -0.75, 0.25][k % 4] for k, name in enumerate(SESSIONS)}
    return await of.step(request(f"s{number}", advantages), SESSIONS)


def adapter(of: Trainer, version: int) -> dict[str, torch.Tensor]:
    return load_file(of.adapter_path(version) / "adapter_model.safetensors")


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


async def test_steps_make_versions_that_vllm_can_load(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        begun = await of.start()
        first, second = await step(of, 1), await step(of, 2)

        assert (begun.name, begun.version, begun.steps) == ("p", 0, ())
        assert (first.version, first.trained, second.version) == (1, True, 2)
        assert first.metrics["trained_tokens"] == 80
        assert all(math.isfinite(figure) for figure in first.metrics.values())
        config = json.loads((of.adapter_path(1) / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (model_path, 16, 32)
        assert all(not t.any() for name, t in adapter(of, 0).items() if "lora_B" in name)
        assert all(t.any() for t in adapter(of, 1).values())
        assert not same(adapter(of, 1), adapter(of, 2))


async def test_repeated_step_returns_the_first_report_and_trains_nothing(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        first = await step(of, 1)
        again = await of.step(request("s1", {"a0": -5.0}), SESSIONS)

        assert again == first
        assert not of._checkpoints.path(2).exists()
    async with trainer(model_path, tmp_path) as of:
        assert (await of.start()).steps == ("s1",)
        assert await step(of, 1) == first


async def test_kill_between_steps_gives_bit_identical_weights(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path / "straight") as straight:
        for number in (1, 2, 3):
            await step(straight, number)
        expected = adapter(straight, 3)
    async with trainer(model_path, tmp_path / "killed") as of:
        await step(of, 1)
        await step(of, 2)
        await killed(of)
        with pytest.raises(TrainError):
            await step(of, 3)
        assert (await step(of, 3)).version == 3

        assert same(adapter(of, 3), expected)


async def test_death_is_told_with_the_log_and_the_next_step_starts_again(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        await step(of, 1)
        with of.log.open("a") as log:
            log.write("the last line\n")
        assert of.pid is not None
        os.kill(of.pid, signal.SIGSTOP)  # it cannot answer before it is killed
        waiting = asyncio.create_task(step(of, 2))
        await asyncio.sleep(0.2)
        os.kill(of.pid, signal.SIGKILL)
        with pytest.raises(TrainError, match=r"(?s)exit status -9.*newest checkpoint.*the last line"):
            await waiting
        assert of.pid is None

        assert (await step(of, 2)).version == 2


async def test_what_is_not_trainable_changes_nothing_and_is_remembered(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        asked = request("s1", {"a0": math.nan, "a1": 0.0, "gone": 1.0})
        report = await of.step(asked, SESSIONS)

        assert (report.trained, report.version) == (False, 0)
        assert report.quarantined == {"a0": "advantage is nan", "gone": "no sealed session"}
        assert not of._checkpoints.path(1).exists()
    async with trainer(model_path, tmp_path) as of:
        assert (await of.start()).steps == ("s1",)
        assert await of.step(asked, SESSIONS) == report


async def test_failed_step_leaves_weights_and_process_as_before(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        await of.start()
        pid = of.pid
        with pytest.raises(TrainError, match="step 'bad': the loss is"):
            await of.step(request("bad", {"a0": 1e300}), SESSIONS)
        assert of.pid == pid
        report = await step(of, 1)
        after = adapter(of, 1)
    async with trainer(model_path, tmp_path / "other") as untouched:
        await step(untouched, 1)

        assert report.version == 1
        assert same(adapter(untouched, 1), after)


async def test_cancelled_caller_does_not_cancel_the_step(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        await of.start()
        waiting = asyncio.create_task(step(of, 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

        assert (await step(of, 1)).version == 1
        assert (await step(of, 2)).version == 2


async def test_trainer_dies_with_its_parent(model_path: str, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from etude.engine.trainer import Trainer\nfrom etude.types import OpenPolicy\n"
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

    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    assert not alive(pid)


async def test_half_written_and_damaged_checkpoints_are_ignored(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        await step(of, 1)
        await step(of, 2)
        expected = adapter(of, 2)
    damaged = tmp_path / "checkpoints" / "00002"
    (damaged / "state.pt").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".00003").mkdir()
    async with trainer(model_path, tmp_path) as of:
        assert (await of.start()).version == 1
        assert (await step(of, 2)).version == 2

        assert same(adapter(of, 2), expected)
        assert not (tmp_path / "checkpoints" / ".00003").exists()


Start = Callable[[Trainer], Awaitable[Any]]


@pytest.mark.parametrize(
    ("model", "policy", "message"),
    [
        ("no/such/folder", POLICY, "'no/such/folder' cannot be loaded"),
        (None, OpenPolicy(name="p", lora=LoraSettings(targets=("nope",))), r"LoRA targets \['nope'\] do not fit"),
    ],
)
async def test_start_that_cannot_work_says_why(
    model_path: str, tmp_path: Path, model: str | None, policy: OpenPolicy, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with trainer(model or model_path, tmp_path, policy) as of:
        with pytest.raises(TrainError, match=message):
            await of.start()
        assert of.pid is None


async def test_other_lora_settings_than_the_checkpoint_are_refused(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        await of.start()
    async with trainer(model_path, tmp_path, OpenPolicy(name="p", lora=LoraSettings(rank=4))) as of:
        with pytest.raises(TrainError, match=r"was trained with .*rank=16.*rank=4.*is asked for"):
            await of.start()


async def test_adapter_of_an_unknown_version_names_those_kept(model_path: str, tmp_path: Path) -> None:
    async with trainer(model_path, tmp_path) as of:
        for number in range(1, 5):
            await step(of, number)
        with pytest.raises(TrainError, match="no checkpoint of version 1 .*kept versions: 2, 3, 4"):
            of.adapter_path(1)


async def killed(of: Trainer) -> None:
    assert of.pid is not None
    os.kill(of.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
