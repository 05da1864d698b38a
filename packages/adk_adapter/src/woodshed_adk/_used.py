"""Which of the policy's answers are in use, where the author's code may replace one by another.

An answer is in use if the agent goes on with it, also edited: one of its tool calls is kept, or half of its text. One
that was asked for and thrown away is superseded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from google.adk.models.llm_response import LlmResponse
from google.genai import types

from woodshed.capture import OpenCall, Rollout
from woodshed_adk._replay import answered, call_behind

_log = logging.getLogger("woodshed.adk")
_replaced: set[str | None] = set()


class Used:
    """The answers in one turn of the author's model, and which of them it passes on."""

    def __init__(self, rollout: Rollout) -> None:
        """Begin without an answer."""
        self.calls: list[OpenCall] = []
        self._rollout = rollout
        self._answers: list[tuple[OpenCall, LlmResponse]] = []
        self._used: set[OpenCall] = set()

    def asked(self, call: OpenCall) -> None:
        """Note that the policy was asked."""
        self.calls.append(call)

    def answered(self, call: OpenCall, answer: LlmResponse) -> None:
        """Note what the policy answered, as it was before the author's code got hold of it."""
        self._answers.append((call, answer.model_copy(deep=True)))

    def shown(self, response: LlmResponse) -> None:
        """Note what the author's code passes on to the agent."""
        if response.partial:
            return
        call = call_behind(self._rollout, response)
        same = [call] if call is not None else [call for call, answer in self._answers if _is_same(answer, response)]
        edited = [call for call, answer in self._answers if keeps(answer, response)]
        for used in same or edited[-1:]:
            self._used.add(used)
            answered(self._rollout, response, used)

    def settle(self) -> None:
        """Supersede what was not passed on."""
        for call in self.calls:
            if call not in self._used:
                call.superseded = True
        if self._answers and not self._used:
            warn_replaced(self.calls[-1])


def warn_replaced(call: OpenCall) -> None:
    """Log once per agent that an answer is not trained because the author's code put another in its place."""
    if call.agent not in _replaced:
        _replaced.add(call.agent)
        _log.warning(
            "agent %r goes on with another answer than the policy gave: its model's code or an after_model callback "
            "put that in its place, so the policy's is not trained",
            call.agent,
        )


def keeps(answer: LlmResponse, response: LlmResponse) -> bool:
    """Return whether a response holds what the model answered, perhaps edited."""
    if response is answer or {call.name for call in _calls(answer)} & {call.name for call in _calls(response)}:
        return True
    said, shown = _text(answer), _text(response)
    if not said or not shown:
        return False
    parts, others = _trigrams(said), _trigrams(shown)
    return said in shown or shown in said or 2 * len(parts & others) >= max(1, min(len(parts), len(others)))


def _is_same(answer: LlmResponse, response: LlmResponse) -> bool:
    return answer.content is not None and answer.content == response.content


def _parts(response: LlmResponse) -> list[types.Part]:
    return (response.content.parts or []) if response.content else []


def _calls(response: LlmResponse) -> Iterator[types.FunctionCall]:
    return (part.function_call for part in _parts(response) if part.function_call is not None)


def _text(response: LlmResponse) -> str:
    return " ".join(part.text for part in _parts(response) if part.text and not part.thought).strip().casefold()


def _trigrams(text: str) -> set[str]:
    return {text[start : start + 3] for start in range(len(text) - 2)}
