"""The parent's side: starts the trainer's process, asks it, and starts it again when it has died."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

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

_CLOSE_WITHIN_S = 5.0
_LOG_LINES = 20
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # A thread that waits for the others must not spin on a core that vLLM needs.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What the trainer's environment has where the user's own does not say it."""


class Trainer:
    """Trains one policy's LoRA in a process of its own, which dies with this one.

    Steps are taken one at a time, in the order asked for. A process that has died raises `TrainError` with the last
    lines of its log, and the next step starts it again from the newest checkpoint.
    """

    def __init__(self, model_path: str, home: Path, policy: OpenPolicy) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            model_path: Folder or hub name of the base model.
            home: Folder of this policy alone: checkpoints and the trainer's log.
            policy: Name, LoRA, optimizer, loss and seed.
        """
        self.log = home / "trainer.log"
        self._start = Start(model_path=model_path, home=str(home), policy=policy, parent_pid=os.getpid())
        self._checkpoints = Checkpoints(home)
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the running trainer, or None."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process is not None else None

    async def start(self) -> PolicyState:
        """Start the process (a running one is ended first) and return where the newest checkpoint stands."""
        return await asyncio.shield(asyncio.ensure_future(self._started()))

    async def step(self, request: StepRequest, sessions: Mapping[str, SealedSession]) -> StepReport:
        """Take one optimizer step; a step id that was taken before returns its first report and trains nothing.

        A caller that is cancelled does not cancel the step.
        """
        return await asyncio.shield(asyncio.ensure_future(self._stepped(request, sessions)))

    def adapter_path(self, version: int) -> Path:
        """Return the adapter folder of a version, for vLLM; raises TrainError where it is not on disk."""
        if self._checkpoints.position(version) is None:
            kept = ", ".join(map(str, self._checkpoints.kept())) or "none"
            raise TrainError(
                f"no checkpoint of version {version} of policy {self._start.policy.name!r} in "
                f"{str(self._checkpoints.folder)!r}; kept versions: {kept}"
            )
        return self._checkpoints.path(version) / "adapter"

    async def close(self) -> None:
        """End the process: at once where it is idle, within seconds where it is in the middle of a step."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _CLOSE_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _started(self) -> PolicyState:
        async with self._lock:
            return await self._launch()

    async def _launch(self) -> PolicyState:
        if self._process is not None:
            await self.close()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the parent, which then decides about this one.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "woodshed.engine.trainer.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**_ENVIRONMENT, **os.environ},
            )
        answer = await self._ask(self._start)
        if isinstance(answer, Refused):
            await self.close()
            raise TrainError(answer.message)
        assert isinstance(answer, Ready)
        return answer.state

    async def _stepped(self, request: StepRequest, sessions: Mapping[str, SealedSession]) -> StepReport:
        wanted = [r.rollout_id for r in request.rollouts if r.rollout_id in sessions]
        asked = Step(request=request, sessions={i: _slim(sessions[i]) for i in wanted})
        async with self._lock:
            if self.pid is None:
                await self._launch()
            answer = await self._ask(asked)
        if isinstance(answer, Refused):
            kind = DriftError if answer.drift else TrainError
            raise kind(f"step {request.step_id!r}: {answer.message}")
        assert isinstance(answer, Stepped)
        return answer.report

    async def _ask(self, question: Question) -> Answer:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(await asyncio.to_thread(frame, question))
            await process.stdin.drain()
            (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            return ANSWERS.validate_json(await process.stdout.readexactly(size))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise TrainError(await self._obituary(process)) from error

    async def _obituary(self, process: asyncio.subprocess.Process) -> str:
        code = await process.wait()
        self._process = None
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return (
            f"the trainer's process ended with exit status {code} during {self._start.policy.name!r}; "
            f"the next step starts it again from the newest checkpoint. Last lines of {str(self.log)!r}:\n"
            + "\n".join(lines)
        )


def _slim(session: SealedSession) -> SealedSession:
    """Return the session with token ids but without the texts, which the trainer does not read."""
    calls = tuple(call.model_copy(update={"messages": (), "tools": ()}) for call in session.calls)
    return session.model_copy(update={"calls": calls})
