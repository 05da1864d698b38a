"""Promises of the pipe between trainer and child: every message survives, a closed pipe is the end."""

from __future__ import annotations

import io
import math

from woodshed.engine.trainer.worker_protocol import ANSWERS, QUESTIONS, Refused, Start, Step, frame, read_frame
from woodshed.types import OpenPolicy, StepRequest, WeightedRollout


def test_messages_survive_the_pipe_in_order() -> None:
    start = Start(model_path="m", home="h", policy=OpenPolicy(name="p"), parent_pid=1)
    step = Step(request=StepRequest(step_id="é", rollouts=()), sessions={})
    pipe = io.BytesIO(frame(start) + frame(step) + frame(Refused(message="no")))

    assert QUESTIONS.validate_json(read_frame(pipe) or b"") == start
    assert QUESTIONS.validate_json(read_frame(pipe) or b"") == step
    assert ANSWERS.validate_json(read_frame(pipe) or b"") == Refused(message="no")
    assert read_frame(pipe) is None


def test_nan_advantage_survives_the_pipe() -> None:
    step = Step(
        request=StepRequest(step_id="s", rollouts=(WeightedRollout(rollout_id="a", advantage=math.nan),)), sessions={}
    )
    found = QUESTIONS.validate_json(read_frame(io.BytesIO(frame(step))) or b"")

    assert isinstance(found, Step)
    assert math.isnan(found.request.rollouts[0].advantage)


def test_pipe_closed_in_the_middle_of_a_message_is_the_end() -> None:
    whole = frame(Refused(message="no"))

    assert read_frame(io.BytesIO(whole[:-1])) is None
    assert read_frame(io.BytesIO(whole[:3])) is None
