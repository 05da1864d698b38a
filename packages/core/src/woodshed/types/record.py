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

    def __str__(self) -> str:
        """Say it in one line, with the place in the user's code."""
        return f"{self.kind}: {self.message}" + (f" ({self.where})" if self.where else "")

    kind: str
    """Class name of the exception, such as `RolloutTimeout` or `ValueError`."""
    message: str
    where: str | None = None
    """Where in the user's own code it was raised, such as `agent.py:12 in answer`; None where that is not known."""
    cause: Literal["agent", "infrastructure", "overflow"] = "agent"
    """`infrastructure`: the engine, the network or a provider failed, not the agent. `overflow`: the conversation grew
    longer than the model's context."""
