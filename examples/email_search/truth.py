"""The truth about an attempt, by rules: was the proof found and read, is the answer right, are its sources?

The examination asks it. Training does only with `--rules`; with `--judge` nothing of it enters training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from facts import states
from make_archive import Question

import woodshed
from woodshed.types import ToolCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """What an attempt achieved."""

    found: bool
    """Whether a search listed every mail that proves the answer."""
    read: bool
    """Whether it read all of them."""
    right: bool
    """Whether its answer states the truth, and no other day, price, number or place."""
    sourced: bool
    """Whether its sources are those mails; others of the same thread may be among them."""
    calls: int
    """Calls of tools, `answer` among them."""
    needed: int
    """So many calls were needed: a search, each proof, the answer."""

    @property
    def success(self) -> bool:
        """Whether the attempt passes the examination."""
        return self.right and self.sourced and self.read


def marks(trajectory: woodshed.Trajectory, question: Question) -> Marks:
    """Return what an attempt at a question achieved."""
    proof, calls = set(question.proof), trajectory.tool_calls
    listed = _ids(*(call.result for call in _of(calls, "search_mail")))
    read = {str(_argument(call, "id")) for call in _of(calls, "read_mail")}
    answers = _of(calls, "answer")
    text = str(_argument(answers[-1], "text") or "") if answers else ""
    sources = _argument(answers[-1], "sources") if answers else None
    named = _ids(*sources) if isinstance(sources, list) else _ids(sources)
    return Marks(
        found=proof <= listed,
        read=proof <= read,
        right=bool(answers) and states(text, question.truth),
        sourced=proof <= named <= set(question.thread),
        calls=len(calls),
        needed=len(proof) + 2,
    )


def is_right(trajectory: woodshed.Trajectory, question: Question) -> bool:
    """Success in the examination: the right answer, from mails that were read and named."""
    return marks(trajectory, question).success


def how_right(trajectory: woodshed.Trajectory, question: Question) -> float:
    """The reward by rules, 0 to 1.

    .1 for finding the proof, .1 for reading it, .4 for the answer, .2 for its sources; and up to .2 for success with
    few calls.
    """
    reached = marks(trajectory, question)
    value = 0.1 * reached.found + 0.1 * reached.read + 0.4 * reached.right + 0.2 * reached.sourced
    return round(value + 0.2 * reached.success / max(1, 1 + reached.calls - reached.needed), 3)


def _ids(*texts: Any) -> set[str]:
    return {mail for text in texts for mail in re.findall(r"m\d{4}(?!\d)", str(text))}


def _of(calls: tuple[ToolCall, ...], name: str) -> list[ToolCall]:
    return [call for call in calls if call.name == name and call.error is None]


def _argument(call: ToolCall, name: str) -> Any:
    return call.arguments.get(name) if isinstance(call.arguments, dict) else None
