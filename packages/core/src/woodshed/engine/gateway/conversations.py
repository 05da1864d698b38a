"""What one rollout has sampled so far, and which of it a new call goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from woodshed.engine.gateway.chat_request import from_message, to_messages
from woodshed.types import ForkReason, TokenCall, ToolSpec, identity

_CANDIDATES = 2
# A bound on memory; a rollout's further turns are recorded as ever, and only not gone on from.
_MOST_TURNS = 2048

_Said = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledTurn:
    """One sampled answer and the conversation it closes."""

    call_id: str
    said: _Said
    """What makes each message of the conversation itself, the answer included."""
    messages: list[dict[str, Any]]
    """The conversation as the model's side of it was sampled, reasoning included."""
    options: bytes
    prompt_ids: tuple[int, ...]
    sampled_ids: tuple[int, ...]
    is_rendered: bool

    def is_held_by(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt starts with this turn's own prompt and then with what was sampled."""
        size = len(self.prompt_ids)
        return (
            tuple(prompt_ids[:size]) == self.prompt_ids
            and tuple(prompt_ids[size : size + len(self.sampled_ids)]) == self.sampled_ids
        )

    def for_engine(self) -> dict[str, Any]:
        """Return it as `continuation.Recorded` has it."""
        return {
            "length": len(self.said),
            "prompt_ids": self.prompt_ids,
            "sampled_ids": self.sampled_ids,
            "is_rendered": self.is_rendered,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What a new call has to do with the calls before it."""

    messages: list[dict[str, Any]]
    """The call's messages, with the turns of the longest recorded conversation as they were sampled."""
    turns: tuple[SampledTurn, ...] = ()
    """Turns whose conversation the call begins with, longest first."""
    fork: ForkReason | None = None
    """Why a turn that the client sent back is in none of them."""

    def outcome(
        self, prompt_ids: Sequence[int], place: str | None, fork: str | None
    ) -> tuple[str | None, ForkReason | None]:
        """Return the call that a prompt continues, and why it does not hold a turn that was sent back.

        Args:
            prompt_ids: The prompt as it was served.
            place: Which turn the model server says it went on from.
            fork: Why it says that it did not go on from the first of them.
        """
        if not self.turns or not prompt_ids:
            return None, self.fork if prompt_ids else None
        told = self.turns[int(place) : int(place) + 1] if place is not None else self.turns
        held = next((turn for turn in told if turn.is_held_by(prompt_ids)), None)
        if held is self.turns[0]:
            return held.call_id, self.fork
        reason = msgspec.convert(fork or "unsupported", ForkReason)
        return (None if held is None else held.call_id), self.fork or reason


@dataclass(slots=True)
class Conversations:
    """The sampled turns of one rollout, found by the conversation they close."""

    _turns: dict[int, list[SampledTurn]] = field(default_factory=dict)
    """Hash of a conversation → the turns that close it, oldest first."""
    _prompts: set[int] = field(default_factory=set)
    """Hashes of the conversations that were answered."""
    _answers: dict[tuple[Any, ...], list[SampledTurn]] = field(default_factory=dict)
    """What an answer says → the turns that said it."""
    _calls: set[str] = field(default_factory=set)
    _count: int = 0

    @classmethod
    def of(cls, calls: Iterable[TokenCall]) -> Conversations:
        """Return the conversations of calls that were recorded by an earlier life of the engine."""
        found = cls()
        for call in calls:
            found.add(call, found.history([from_message(m) for m in call.messages], call.tools, call.template_options))
        return found

    def history(
        self, messages: list[dict[str, Any]], tools: Sequence[ToolSpec], template_options: Mapping[str, Any]
    ) -> History:
        """Return what a call with these messages goes on from."""
        if not self._count or not any(message["role"] == "assistant" for message in messages):
            return History(messages=messages)
        said, options = tuple(identity(message) for message in to_messages(messages)), _options(tools, template_options)
        hashes = _hashes(said)
        alike = [turn for end in range(len(said), 0, -1) for turn in self._closing(said[:end], hashes[end])]
        turns = tuple(turn for turn in alike if turn.options == options)[:_CANDIDATES]
        known = len(turns[0].said) if turns else 0
        if any(len(turn.said) > known for turn in alike):
            fork: ForkReason | None = "options_changed"
        else:
            fork = "history_edited" if self._is_edited(said, hashes, known, options) else None
        return History(messages=[*turns[0].messages, *messages[known:]] if turns else messages, turns=turns, fork=fork)

    def add(self, call: TokenCall, history: History) -> None:
        """Keep what a call sampled; `history` is what the call went on from."""
        self._forget(call.call_id)
        if call.error is not None or not call.prompt_ids or self._count >= _MOST_TURNS:
            return
        prompt = tuple(identity(message) for message in call.messages)
        options = _options(call.tools, call.template_options)
        self._prompts.add(_hashes(prompt)[-1])
        for completion in call.completions:
            if not completion.token_ids:
                continue
            answer = identity(completion.message)
            turn = SampledTurn(
                call_id=call.call_id,
                said=(*prompt, answer),
                messages=[*history.messages, from_message(completion.message, completion.reasoning)],
                options=options,
                prompt_ids=call.prompt_ids,
                sampled_ids=completion.token_ids,
                is_rendered=call.continued_from is None,
            )
            self._turns.setdefault(_hashes(turn.said)[-1], []).append(turn)
            self._answers.setdefault(answer, []).append(turn)
            self._calls.add(call.call_id)
            self._count += 1

    def _forget(self, call_id: str) -> None:
        """Drop what a call sampled before it was repeated."""
        if call_id in self._calls:
            self._calls.discard(call_id)
            for turns in (*self._turns.values(), *self._answers.values()):
                turns[:] = [turn for turn in turns if turn.call_id != call_id]

    def _closing(self, said: _Said, key: int) -> list[SampledTurn]:
        """Return the turns that close a conversation, newest first."""
        return [turn for turn in reversed(self._turns.get(key, ())) if turn.said == said]

    def _is_edited(self, said: _Said, hashes: Sequence[int], known: int, options: bytes) -> bool:
        """Whether a message behind the first `known` is a sampled turn, or stands where one was sampled."""
        for place in range(known, len(said)):
            if said[place][0] != "assistant":
                continue
            # An example that the agent puts into its prompts may say the same as an answer.
            sampled = (turn for turn in self._answers.get(said[place], ()) if said[place] not in turn.said[:-1])
            if hashes[place] in self._prompts or any(turn.options == options for turn in sampled):
                return True
        return False


def _options(tools: Sequence[ToolSpec], template_options: Mapping[str, Any]) -> bytes:
    """Return all that a template is given besides the messages, to compare."""
    return msgspec.json.encode([[(t.name, t.description, t.parameters) for t in tools], template_options])


def _hashes(said: _Said) -> list[int]:
    """Return one hash for each beginning of a conversation, the empty one first."""
    hashes = [0]
    for message in said:
        hashes.append(hash((hashes[-1], message)))
    return hashes
