"""What parent and child say to each other: one length-prefixed JSON frame per message, over the child's pipes."""

from __future__ import annotations

import struct
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, TypeAdapter

from woodshed.types import OpenPolicy, PolicyState, SealedSession, StepReport, StepRequest
from woodshed.types.record import Record

LENGTH = struct.Struct(">Q")
"""Prefix of every frame: how many bytes of JSON follow."""


class Start(Record):
    """Parent → child, once: load the model and the newest checkpoint."""

    type: Literal["start"] = "start"
    model_path: str
    home: str
    policy: OpenPolicy
    parent_pid: int


class Step(Record):
    """Parent → child: take one optimizer step."""

    type: Literal["step"] = "step"
    request: StepRequest
    sessions: dict[str, SealedSession]


class Replay(Record):
    """A line for `replay`: one step from one start."""

    start: Start
    step: Step


class Ready(Record):
    """Child → parent: the policy is loaded."""

    type: Literal["ready"] = "ready"
    state: PolicyState


class Stepped(Record):
    """Child → parent: the step's report; its checkpoint is on disk."""

    type: Literal["stepped"] = "stepped"
    report: StepReport


class Refused(Record):
    """Child → parent: the request failed and changed nothing; the child goes on."""

    type: Literal["refused"] = "refused"
    message: str
    drift: bool = False
    """Whether it is a `DriftError`."""


Question = Start | Step
Answer = Ready | Stepped | Refused
QUESTIONS: TypeAdapter[Question] = TypeAdapter(Annotated[Question, Field(discriminator="type")])
ANSWERS: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="type")])


def frame(message: Record) -> bytes:
    """Return a message as the bytes that go over the pipe."""
    body = message.model_dump_json().encode()
    return LENGTH.pack(len(body)) + body


def read_frame(pipe: BinaryIO) -> bytes | None:
    """Return the body of the next frame, or None where the other side has closed the pipe."""
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    body = pipe.read(size)
    return body if len(body) == size else None
