"""One logical model call: which of its answers were used, where it is asked more than once.

CrewAI repeats a throttled call, plans until the plan is ready, and asks again in another form where an answer cannot be
read. An author's own `call` may ask twice and use one answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from woodshed.capture import AttemptScope, Rollout, Steps, current_call_context, in_rollout, in_scope


class Replaced(AttemptScope):
    """Work whose further answer takes the place of the last, without being told that it failed."""

    def begin(self) -> None:
        """Begin the next; what was answered before is superseded."""
        if self._calls:
            self.try_again()


class _OneAnswer(Replaced):
    """Work that uses one answer of a model only."""


class ModelCall(AttemptScope):
    """One logical model call, with all its attempts, and what it answered."""

    def __init__(self, llm: Any, messages: Any) -> None:
        """Begin a call of `llm`, in the current call context."""
        context = current_call_context()
        super().__init__(parent=context.scope, agent=context.agent, key=llm)
        self.llm = llm
        self.has_answered = False
        self.answer: Any = None
        self._said_before = set(_said(messages))

    @property
    def is_empty(self) -> bool:
        """Whether nothing asked the policy in it."""
        return not self._calls

    def answered(self, answer: Any) -> None:
        """Note the answer as CrewAI, or the author's code, hands it on."""
        self.has_answered, self.answer = True, answer

    def is_in(self, answer: Any) -> bool:
        """Return whether this call's answer is a part of another one."""
        return isinstance(answer, str) and bool(self._text) and self._text in answer

    def goes_on_in(self, later: ModelCall) -> bool:
        """Return whether a later request holds this answer as the assistant's: it stays in the conversation."""
        return bool(self._text) and self._text in later._said_before - self._said_before

    @property
    def _text(self) -> str:
        return self.answer.strip() if isinstance(self.answer, str) else ""

    def count_from(self, discarded: int) -> None:
        """Count the calls as attempts after `discarded` others."""
        for call in self._calls:
            call.attempt += discarded


class Override(ModelCall):
    """One call of an author's own model code, with the model calls that it makes for its answer."""

    def __init__(self, llm: Any, messages: Any) -> None:
        """Begin a call of `llm`."""
        super().__init__(llm, messages)
        self.asked: list[ModelCall] = []

    def settle(self) -> None:
        """Supersede what a model answered here and the override did not use; its other answers are attempts."""
        for llm in {id(one.llm): one.llm for one in self.asked}.values():
            calls, discarded = [one for one in self.asked if one.llm is llm], 0
            used = _used(calls, self.answer)
            for one in calls:
                if one in used:
                    one.count_from(discarded)
                else:
                    one.try_again()
                    discarded += 1


def _used(calls: Sequence[ModelCall], answer: Any) -> list[ModelCall]:
    """Return the calls whose answers went into `answer`; the last that answered, where that can't be told."""
    answered = [call for call in calls if call.has_answered] or calls
    used = [call for call in answered if call.answer == answer][-1:]
    used = used or [call for call in answered if call.is_in(answer)] or list(answered[-1:])
    return used + [one for n, one in enumerate(calls) if any(one.goes_on_in(later) for later in calls[n + 1 :])]


def _said(messages: Any) -> Iterator[str]:
    """Yield what the assistant said in a conversation."""
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str):
            yield message["content"].strip()


def one_call(llm: Any, args: Any, kwargs: Any) -> Any:
    """Return a context in which everything is an attempt at one logical call of `llm(messages, …)`."""
    return _inside(ModelCall(llm, args[0] if args else kwargs.get("messages")))


def one_override(llm: Any, args: Any, kwargs: Any) -> Any:
    """Return a context for one call of the author's own code; at its end the answers it did not use are superseded."""
    return _inside(Override(llm, args[0] if args else kwargs.get("messages")))


@contextmanager
def _inside(scope: ModelCall) -> Iterator[ModelCall]:
    context = current_call_context()
    if isinstance(context.scope, _OneAnswer):
        context.scope.begin()
    if isinstance(context.scope, Override):
        context.scope.asked.append(scope)
    with in_scope(scope):
        yield scope
    scope.succeed()
    if isinstance(scope, Override):
        scope.settle()


@in_rollout
def around_one_answer(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Steps:
    """Plan until the plan is ready, or ask once more in another form where an answer could not be read."""
    context = current_call_context()
    scope = _OneAnswer(parent=context.scope, agent=context.agent, key=wrapped)
    with in_scope(scope):
        return (yield partial(wrapped, *args, **kwargs))
