"""The trainer's own process: `python -m woodshed.engine.trainer.worker`, started by `process.Trainer` or `launch`."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from itertools import chain
from typing import BinaryIO

from woodshed.engine.trainer.lifeline import die_with_parent
from woodshed.engine.trainer.worker_protocol import LAUNCHER, QUESTIONS, Answer, Start, frame, read_frame


def main() -> None:
    """Answer the parent's messages until it closes the pipe or dies."""
    answers = own_stdout()
    log_to_stderr()
    read, send = partial(read_frame, sys.stdin.buffer), partial(_send, answers)
    # torch and transformers take seconds to import: only when this process would already die with its parent.
    if LAUNCHER in os.environ:
        die_with_parent(int(os.environ[LAUNCHER]))
        from woodshed.engine.trainer.ranks import launched_ranks
        from woodshed.engine.trainer.serve import serve

        with launched_ranks(os.environ) as ranks:
            serve(read, send, ranks)
    elif (body := read()) is not None:
        start = QUESTIONS.validate_json(body)
        assert isinstance(start, Start)
        die_with_parent(start.parent_pid)
        from woodshed.engine.trainer.serve import serve

        bodies = chain((body,), iter(read, None))
        serve(lambda: next(bodies, None), send)


def _send(pipe: BinaryIO, answer: Answer) -> None:
    pipe.write(frame(answer))
    pipe.flush()


def log_to_stderr() -> None:
    """Send what is logged to stderr, which is the trainer's log file."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("woodshed").setLevel(logging.INFO)


def own_stdout() -> BinaryIO:
    """Return the pipe to the parent, and redirect what libraries print to stderr, which is the log."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
