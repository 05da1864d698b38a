"""The base of everything that is stored or exchanged: frozen, and strict about unknown keys."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT: Literal[1] = 1
"""Version of every stored format; a reader refuses another one."""


class Record(BaseModel):
    """A frozen value that refuses unknown keys and survives a JSON round trip unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Failure(Record):
    """What went wrong, as data: the exception's class name and its message."""

    kind: str
    """Class name of the exception, such as `RolloutTimeout` or `ValueError`."""
    message: str
    cause: Literal["agent", "infrastructure", "overflow"] = "agent"
    """`infrastructure`: the engine, the network or a provider failed, not the agent. `overflow`: the conversation grew
    longer than the model's context."""
