"""The trainer's own process: `python -m woodshed.engine.trainer.worker`, started by `process.Trainer`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from typing import BinaryIO

from woodshed.engine.trainer.worker_protocol import (
    QUESTIONS,
    Answer,
    Ready,
    Refused,
    Start,
    Step,
    Stepped,
    frame,
    read_frame,
)
from woodshed.errors import DriftError, TrainError

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer the parent's messages until it closes the pipe or dies."""
    answers = _own_stdout()
    questions = sys.stdin.buffer
    body = read_frame(questions)
    if body is None:
        return
    start = QUESTIONS.validate_json(body)
    assert isinstance(start, Start)
    _die_with_parent(start.parent_pid)
    # Logging goes to stderr, which is the trainer's log file.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("woodshed").setLevel(logging.INFO)
    # torch and transformers take seconds to import: only now, when this process would already die with its parent.
    from woodshed.engine.trainer.backend import import_loader

    try:
        import_loader(start.policy)
        from woodshed.engine.trainer.memory import keep_freed_memory
        from woodshed.engine.trainer.policy_run import PolicyRun

        keep_freed_memory()
        run = PolicyRun(start)
    except TrainError as error:
        _send(answers, Refused(message=str(error)))
        return
    _send(answers, Ready(state=run.state))
    while (body := read_frame(questions)) is not None:
        message = QUESTIONS.validate_json(body)
        assert isinstance(message, Step)
        try:
            _send(answers, Stepped(report=run.step(message)))
        except TrainError as error:
            _send(answers, Refused(message=str(error), drift=isinstance(error, DriftError)))
        # Anything else ends this process: the parent starts it again from the newest checkpoint.


def _send(pipe: BinaryIO, answer: Answer) -> None:
    pipe.write(frame(answer))
    pipe.flush()


def _own_stdout() -> BinaryIO:
    """Return the pipe to the parent, and redirect what libraries print to stderr, which is the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _die_with_parent(parent_pid: int) -> None:
    """Ask for SIGKILL when the parent dies (Linux); elsewhere the closed pipe ends this process after the step."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent was gone before the trainer started")


if __name__ == "__main__":
    main()
