"""The engine's side of the trainer: starts its process, sends it steps, and starts it again if it has died."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from woodshed.engine.client.config import Trainers
from woodshed.engine.client.subprocesses import ended
from woodshed.engine.trainer.checkpoint import Checkpoints
from woodshed.engine.trainer.worker_protocol import (
    ANSWERS,
    LENGTH,
    Answer,
    Question,
    Ready,
    Refused,
    Start,
    Step,
    Stepped,
    frame,
)
from woodshed.errors import DriftError, TrainError
from woodshed.types import OpenPolicy, PolicyState, SealedSession, StepReport, StepRequest

Result = TypeVar("Result")

_log = logging.getLogger("woodshed.engine")

_CLOSE_WITHIN_S = 5.0
_LOG_LINES = 20
_DEATHS = 3
"""How often the process may die during one step."""
_ONE = Trainers()
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # A thread that waits for the others must not keep a core busy that vLLM needs.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment variables of the trainer, unless the user has set them."""


class _TrainerDied(Exception):
    """The trainer's process ended before it answered."""


class Trainer:
    """Trains one policy's LoRA in a process of its own, or in several, which die with this one.

    Steps are taken one at a time, in the order of the calls. If the process dies, or one of several, all are started
    again from the newest checkpoint and the step is sent again; one whose checkpoint was finished returns its report
    and trains nothing. If they keep dying, the call raises `TrainError` with the last lines of their log.
    """

    def __init__(
        self, model_path: str, home: Path, policy: OpenPolicy, *, trainers: Trainers = _ONE, leaves_gpu: bool = False
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            model_path: Folder or hub name of the base model.
            home: Folder for this policy's checkpoints and the trainer's log; no other policy may use it.
            policy: Name, LoRA, optimizer, loss and seed.
            trainers: The processes that share the work of each step.
            leaves_gpu: Whether the model is on the GPU only during a step, for vLLM to have the room in between.
        """
        self._trainers = trainers
        self._home = home
        self.log = home / "trainer.log"
        self._start = Start(
            model_path=model_path,
            home=str(home),
            policy=policy,
            parent_pid=os.getpid(),
            shard_base=trainers.shard_base,
            leaves_gpu=leaves_gpu,
        )
        self._checkpoints = Checkpoints(home)
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running trainer, or of the launcher of several; None where none runs."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process is not None else None

    async def start(self) -> PolicyState:
        """Start the process (a running one is ended first) and return the state at the newest checkpoint.

        Raises:
            TrainError: The model or its checkpoint cannot be loaded, or the process died.
        """
        return await asyncio.shield(asyncio.ensure_future(self._started()))

    async def step(self, request: StepRequest, sessions: Mapping[str, SealedSession]) -> StepReport:
        """Take one optimizer step; a step id that was taken before returns its first report and trains nothing.

        Cancelling the caller does not cancel the step.

        Args:
            request: The rollouts, their advantages and the objective.
            sessions: Rollout id → its recorded calls.

        Raises:
            TrainError: The step could not be taken, or the process died.
        """
        return await asyncio.shield(asyncio.ensure_future(self._stepped(request, sessions)))

    def adapter_path(self, version: int) -> Path:
        """Return the adapter folder of a version, for vLLM.

        Raises:
            TrainError: That version is not on disk.
        """
        if self._checkpoints.position(version) is None:
            kept = ", ".join(map(str, self._checkpoints.kept())) or "none"
            raise TrainError(
                f"no checkpoint of version {version} of policy {self._start.policy.name!r} in "
                f"{str(self._checkpoints.folder)!r}; kept versions: {kept}"
            )
        return self._checkpoints.path(version) / "adapter"

    async def close(self) -> None:
        """End the process: at once if it is idle, within seconds if it is taking a step."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(ended(process), _CLOSE_WITHIN_S)
        except TimeoutError:
            process.kill()
        await ended(process)

    async def _started(self) -> PolicyState:
        async with self._lock:
            return await self._with_restarts(self._launch, "it was loading the policy")

    async def _with_restarts(self, work: Callable[[], Awaitable[Result]], during: str) -> Result:
        """Do some work with the process, and do it again if the process dies meanwhile."""
        for death in range(1, _DEATHS + 1):
            try:
                return await work()
            except _TrainerDied as died:
                if death == _DEATHS:
                    raise TrainError(f"{died}\nIt died {death} times and is not started again for this") from died
                _log.warning("while %s, %s\nIt is started again from the newest checkpoint", during, died)
        raise AssertionError("a loop over deaths returns or raises")

    async def _launch(self) -> PolicyState:
        if self._process is not None:
            await self.close()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches only the parent, which then ends this process.
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**_ENVIRONMENT, **os.environ},
            )
        answer = await self._exchange(self._start)
        if isinstance(answer, Refused):
            await self.close()
            raise TrainError(answer.message)
        assert isinstance(answer, Ready)
        return answer.state

    def _command(self) -> tuple[str, ...]:
        run, count, parent = (sys.executable, "-m"), str(self._trainers.count), str(os.getpid())
        if self._trainers.ray is not None:
            return (*run, "woodshed.engine.trainer.launch_ray", count, parent, self._trainers.ray)
        if self._trainers.count == 1:
            return (*run, "woodshed.engine.trainer.worker")
        return (*run, "woodshed.engine.trainer.launch", count, str(self._home), parent)

    async def _stepped(self, request: StepRequest, sessions: Mapping[str, SealedSession]) -> StepReport:
        recorded = [r.rollout_id for r in request.rollouts if r.rollout_id in sessions]
        message = Step(request=request, sessions={i: _without_texts(sessions[i]) for i in recorded})

        async def send() -> Answer:
            if self.pid is None:
                await self._launch()
            return await self._exchange(message)

        async with self._lock:
            answer = await self._with_restarts(send, f"it was taking step {request.step_id!r}")
        if isinstance(answer, Refused):
            kind = DriftError if answer.drift else TrainError
            raise kind(f"step {request.step_id!r}: {answer.message}")
        assert isinstance(answer, Stepped)
        return answer.report

    async def _exchange(self, message: Question) -> Answer:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(await asyncio.to_thread(frame, message))
            await process.stdin.drain()
            (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            return ANSWERS.validate_json(await process.stdout.readexactly(size))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise _TrainerDied(await self._death_message(process)) from error

    async def _death_message(self, process: asyncio.subprocess.Process) -> str:
        code = await ended(process)
        self._process = None
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return (
            f"the trainer's process of policy {self._start.policy.name!r} ended with exit status {code}. "
            f"Last lines of {str(self.log)!r}:\n" + "\n".join(lines)
        )


def _without_texts(session: SealedSession) -> SealedSession:
    """Return the session with token ids but without the texts, which the trainer does not read."""
    calls = tuple(call.model_copy(update={"messages": (), "tools": ()}) for call in session.calls)
    return session.model_copy(update={"calls": calls})
