"""The trainer's own process: `python -m etude.engine.trainer.child`, spoken to by `process.Trainer` over pipes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from etude.engine.trainer.batch import build_batch
from etude.engine.trainer.checkpoint import Checkpoints, Position
from etude.engine.trainer.policy import LoraPolicy
from etude.engine.trainer.step import StepRunner
from etude.engine.trainer.wire import QUESTIONS, Answer, Ready, Refused, Start, Step, Stepped, frame, read_frame
from etude.errors import TrainError
from etude.types import OpenPolicy, PolicyState, StepReport

_PR_SET_PDEATHSIG = 1


class Session:
    """One policy, from its newest checkpoint on."""

    def __init__(self, start: Start) -> None:
        """Load model and newest checkpoint; make checkpoint 0 where there is none."""
        self.checkpoints = Checkpoints(Path(start.home))
        self.checkpoints.clean()
        self.policy = LoraPolicy(start.model_path, start.policy)
        kept = self.checkpoints.kept()
        position = self.checkpoints.position(kept[-1]) if kept else None
        if position is None:
            self.position = Position(version=0, policy=start.policy)
            self.checkpoints.save(self.position, self.policy.save)
        else:
            _check_same(position.policy, start.policy, self.checkpoints.path(position.version))
            self.policy.load(self.checkpoints.path(position.version))
            self.position = position.model_copy(update={"policy": start.policy})
        self.runner = StepRunner(self.policy)

    @property
    def state(self) -> PolicyState:
        """Where the policy stands."""
        return PolicyState(
            name=self.position.policy.name,
            version=self.position.version,
            steps=tuple(report.step_id for report in self.position.reports),
        )

    def step(self, asked: Step) -> StepReport:
        """Take the step, once: its report is in the checkpoint, and a repeated step id is answered from there."""
        for report in self.position.reports:
            if report.step_id == asked.request.step_id:
                return report
        batch = build_batch(asked.request, asked.sessions)
        version = self.position.version
        trained = bool(batch.learning)
        report = StepReport(
            step_id=asked.request.step_id,
            version=version + trained,
            trained=trained,
            metrics=self.runner.take(batch, version) if trained else {"rollouts": float(len(batch.rollouts))},
            quarantined=batch.quarantined,
        )
        position = self.position.model_copy(
            update={"version": report.version, "reports": (*self.position.reports, report)}
        )
        if trained:
            self.checkpoints.save(position, self.policy.save)
        else:
            self.checkpoints.restate(position)
        self.position = position
        return report


def main() -> None:
    """Answer questions until the parent closes the pipe or dies."""
    answers = _own_stdout()
    questions = sys.stdin.buffer
    body = read_frame(questions)
    if body is None:
        return
    start = QUESTIONS.validate_json(body)
    assert isinstance(start, Start)
    _die_with_parent(start.parent_pid)
    try:
        session = Session(start)
    except TrainError as error:
        _tell(answers, Refused(message=str(error)))
        return
    _tell(answers, Ready(state=session.state))
    while (body := read_frame(questions)) is not None:
        asked = QUESTIONS.validate_json(body)
        assert isinstance(asked, Step)
        try:
            _tell(answers, Stepped(report=session.step(asked)))
        except TrainError as error:
            _tell(answers, Refused(message=str(error)))
        # Anything else ends this process: the parent starts it again from the newest checkpoint.


def _tell(pipe: BinaryIO, answer: Answer) -> None:
    pipe.write(frame(answer))
    pipe.flush()


def _own_stdout() -> BinaryIO:
    """Return the pipe to the parent, and send what libraries print to stderr, which is the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _die_with_parent(parent_pid: int) -> None:
    """Ask for SIGKILL when the parent is gone; elsewhere than on Linux the closed pipe ends us after the step."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent was gone before the trainer started")


def _check_same(kept: OpenPolicy, asked: OpenPolicy, folder: Path) -> None:
    if kept.lora != asked.lora:
        raise TrainError(
            f"policy {asked.name!r} was trained with {kept.lora!r} (checkpoint {str(folder)!r}), "
            f"and {asked.lora!r} is asked for; use the same settings or another policy name"
        )


if __name__ == "__main__":
    main()
