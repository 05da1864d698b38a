"""Which of several answers to the same question was used.

Code around a model may ask it more than once for one result: a `wrap_model_call` middleware that calls its `handler`
again, an author's `_generate` that calls `super()._generate` twice, a middleware that runs a tool again. What it did
with each answer is not said anywhere, so only what comes back out is believed:

1. An answer that is in what came out is used. It is known by the message itself, else by its id, else by the same text
   and tool calls, else by one text being in the other.
2. An answer whose text, id or tool calls a later question holds, where its own did not, was worked on by the model:
   it is used if that later one is.
3. The others were thrown away, and superseded.
4. Where nothing that came out is known, only answers that raised or that a parser refused were thrown away; the rest
   are kept, with a line in the log. Where the whole work failed, its last answer stands for it.

This holds for questions that go through one such place: a handler, `super()`, one held model, one tool call. Calls that
a node makes by its own code are all used (plan and act, map and reduce, a vote over three answers), and so are those of
a model that asks one model which other one to ask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.types import Command

from woodshed.capture import AttemptScope, OpenCall

_log = logging.getLogger("woodshed.langgraph")

Answer = tuple[BaseMessage, ...]
"""One message, or the chunks that make one up."""


class Ask:
    """A question and the answers to it, or work made up of such questions (`parts`)."""

    def __init__(self, prompt: Iterable[Any] = (), place: Any = None) -> None:
        """Ask with the messages of `prompt`; only the answers to questions of the same `place` replace each other."""
        self.place = place
        self.prompt = [message for message in prompt if isinstance(message, BaseMessage)]
        self.answers: list[Answer] = []
        self.failed = False
        """Whether it raised, or a parser refused its answer."""
        self.own_calls: list[OpenCall] = []
        self.parts: list[Ask] = []

    def part(self, prompt: Iterable[Any] = (), place: Any = None) -> Ask:
        """Return a further question, asked as a part of this work."""
        ask = Ask(prompt, place)
        self.parts.append(ask)
        return ask

    def add_answer(self, message: BaseMessage, *, piece: bool = False) -> None:
        """Note an answer, or a further piece of the one that is being streamed."""
        if piece and self.answers:
            self.answers[-1] += (message,)
        else:
            self.answers.append((message,))

    def calls(self) -> Iterator[OpenCall]:
        """Yield the model calls behind the answers."""
        yield from self.own_calls
        for part in self.parts:
            yield from part.calls()

    def refuse(self, message: Any) -> None:
        """Note that a parser refused this message."""
        for part in self.parts:
            part.failed = part.failed or any(_knows(answer, (message,)) in (0, 1) for answer in part.answers)

    def settle(self, scope: AttemptScope | None, came_out: Iterable[Answer] | None) -> None:
        """Supersede the parts that were thrown away; None for `came_out` says that the work failed."""
        if len(self.parts) < 2:
            return
        parts = [part for part in self.parts if any(not call.superseded for call in part.calls())]
        places = {part.place: [rival for rival in parts if rival.place == part.place] for part in parts}
        if len(parts) == len(places):
            return
        keep: list[Ask] = []
        used = None if came_out is None else tuple(came_out)
        for rivals in places.values():
            keep += rivals[-1:] if used is None or len(rivals) == 1 else _known(rivals, used)
        _add_sources(keep, parts)
        for rivals in places.values():
            if not any(rival in keep for rival in rivals):
                keep += _not_refused(rivals)
        _add_sources(keep, parts)
        discarded = dict.fromkeys(places, 0)
        for part in parts:
            if part not in keep:
                _discard(scope, part)
                discarded[part.place] += 1
                continue
            for call in part.calls():
                call.attempt += discarded[part.place]


def _not_refused(rivals: Sequence[Ask]) -> list[Ask]:
    """Return the questions of which nothing is known but that their answers were not refused; the last stands."""
    kept = [part for part in rivals[:-1] if not part.failed] + [rivals[-1]]
    if len(kept) > 1:
        _log.warning("cannot tell which of %d answers was used: none is in what came out; all are trained", len(kept))
    return kept


def _discard(scope: AttemptScope | None, part: Ask) -> None:
    (scope or AttemptScope(parent=None, agent=None, key=None)).discard(part.calls())


def _add_sources(keep: list[Ask], parts: Sequence[Ask]) -> None:
    """Keep the parts, too, whose answers went into the questions of kept ones."""
    for i, part in reversed(list(enumerate(parts))):
        if part not in keep and any(later in keep and _is_asked_about(part, later) for later in parts[i + 1 :]):
            keep.append(part)


def _is_asked_about(part: Ask, later: Ask) -> bool:
    new = [m for m in later.prompt if not any(m is old or m == old for old in part.prompt)]
    return any(_knows(answer, (message,)) is not None for answer in part.answers for message in new)


def _known(parts: Sequence[Ask], came_out: Sequence[Answer]) -> list[Ask]:
    """Return the parts whose answers came out, by the best evidence there is."""
    best: dict[int, list[Ask]] = {}
    for part in parts:
        grades = [_knows(answer, out) for answer in part.answers for out in came_out]
        known = [grade for grade in grades if grade is not None]
        if known:
            best.setdefault(min(known), []).append(part)
    return best[min(best)] if best else []


def _knows(answer: Answer, out: Answer) -> int | None:
    """Return how `out` is known as `answer`: 0 itself, 1 its id, 2 what it says, 3 a part of it; None if it is not."""
    if any(mine is theirs for mine in answer for theirs in out):
        return 0
    if _ids(answer) & _ids(out):
        return 1
    (text, calls), (out_text, out_calls) = _says(answer), _says(out)
    if calls & out_calls:
        return 2
    if text and text == out_text and not calls ^ out_calls:
        return 2
    return 3 if text and out_text and (text in out_text or out_text in text) else None


def _ids(answer: Answer) -> set[str]:
    return {message.id for message in answer if message.id}


def _says(answer: Answer) -> tuple[str, set[str]]:
    text = "".join(message.text for message in answer).strip()
    calls = {
        str(call["id"])
        for message in answer
        for call in getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None) or ()
        if call.get("id")
    }
    return text, calls


def model_answers(writes: Iterable[tuple[str, Any]]) -> Iterator[Answer]:
    """Yield a model's messages in what a node writes to the state."""
    return ((message,) for _, value in writes for message in messages_in(value) if isinstance(message, AIMessage))


def tool_answers(output: Any) -> Iterator[Answer]:
    """Yield the messages in a tool's output."""
    return ((message,) for message in messages_in(output) if isinstance(message, ToolMessage))


def messages_in(value: Any) -> Iterator[BaseMessage]:
    """Yield the messages in a state update, at any depth."""
    if isinstance(value, BaseMessage):
        yield value
    elif isinstance(value, Command):
        yield from messages_in(value.update)
    elif isinstance(value, dict):
        for item in value.values():
            yield from messages_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from messages_in(item)
