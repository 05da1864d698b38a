"""The messages between `process.Trainer` and `worker`: length-prefixed JSON frames over the worker's pipes."""

from __future__ import annotations

import struct
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, TypeAdapter

from woodshed.types import OpenPolicy, PolicyState, SealedSession, StepReport, StepRequest
from woodshed.types.record import Record

LENGTH = struct.Struct(">Q")
"""Prefix of every frame: how many bytes of JSON follow."""

LAUNCHER, MEETING = "WOODSHED_TRAINER_LAUNCHER", "WOODSHED_TRAINER_MEETING"
"""Environment variables of one rank of several: process id of what started it, and the file where the ranks meet."""


class Start(Record):
    """Engine → worker, once: load the model and the newest checkpoint."""

    type: Literal["start"] = "start"
    model_path: str
    home: str
    policy: OpenPolicy
    parent_pid: int
    shard_base: bool = False
    leaves_gpu: bool = False
    """Whether the model is on the GPU only during a step."""


class Step(Record):
    """Engine → worker: take one optimizer step."""

    type: Literal["step"] = "step"
    request: StepRequest
    sessions: dict[str, SealedSession]


class Replay(Record):
    """One step from one start, for `woodshed.testing.conformance.replay_steps`."""

    start: Start
    step: Step


class Ready(Record):
    """Worker → engine: the policy is loaded."""

    type: Literal["ready"] = "ready"
    state: PolicyState


class Stepped(Record):
    """Worker → engine: the step's report; its checkpoint is on disk."""

    type: Literal["stepped"] = "stepped"
    report: StepReport


class Refused(Record):
    """Worker → engine: the request failed and changed nothing; the worker keeps running."""

    type: Literal["refused"] = "refused"
    message: str
    drift: bool = False
    """Whether the failure is a `DriftError`, not another `TrainError`."""


Question = Start | Step
Answer = Ready | Stepped | Refused
QUESTIONS: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="type")])
ANSWERS: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="type")])


def frame(message: Record) -> bytes:
    """Return a message as a frame."""
    body = message.model_dump_json().encode()
    return LENGTH.pack(len(body)) + body


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Return the body of the next frame, or None if the other side has closed the pipe."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = pipe.read(size)
    return body if len(body) == size else None
