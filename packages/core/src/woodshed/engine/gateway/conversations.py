"""The turns that one rollout has sampled so far, and which of them a new call continues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from woodshed.engine.gateway.messages import from_message, to_messages
from woodshed.types import ForkReason, Message, TokenCall, ToolSpec, identity

_MAX_CANDIDATES = 2
"""How many turns the model server is offered to continue from."""
_MAX_TURNS = 2048
"""Bounds memory. Turns beyond it are recorded as always, but later calls are not continued from them."""

_Identities = tuple[tuple[Any, ...], ...]
"""The identity of each message of a conversation (`types.identity`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledTurn:
    """One sampled answer with the conversation that it ends."""

    call_id: str
    identities: _Identities
    """The identity of each message of the conversation, the answer included."""
    messages: list[dict[str, Any]]
    """The conversation with the model's turns as they were sampled, reasoning included."""
    options: bytes
    """Tools and template options of the call, as `_options` encodes them."""
    prompt_ids: tuple[int, ...]
    sampled_ids: tuple[int, ...]
    is_rendered: bool
    """Whether the chat template wrote all of `prompt_ids`; False where they continue an earlier turn."""

    def is_held_by(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt starts with this turn's own prompt followed by its sampled tokens."""
        size = len(self.prompt_ids)
        return (
            tuple(prompt_ids[:size]) == self.prompt_ids
            and tuple(prompt_ids[size : size + len(self.sampled_ids)]) == self.sampled_ids
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `continuation.RecordedTurn`, for the request to vLLM."""
        return {
            "length": len(self.identities),
            "prompt_ids": self.prompt_ids,
            "sampled_ids": self.sampled_ids,
            "is_rendered": self.is_rendered,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """How a new call is related to the calls before it."""

    messages: list[dict[str, Any]]
    """The call's messages; those of the longest recorded conversation they begin with are as they were sampled."""
    turns: tuple[SampledTurn, ...] = ()
    """Turns whose conversation the call's messages begin with, longest first."""
    fork: ForkReason | None = None
    """Why a turn that the client sent back is not among `turns`; None where nothing is wrong."""
    identities: _Identities | None = None
    """The identity of each of the call's own messages; None where there was nothing to compare them with."""

    def outcome(
        self, prompt_ids: Sequence[int], continued_index: str | None, fork: str | None
    ) -> tuple[str | None, ForkReason | None]:
        """Return the id of the call that a prompt continues, and why the prompt lacks a turn that was sent back.

        Args:
            prompt_ids: The prompt as it was served.
            continued_index: Index in `turns` of the turn that the model server says it continued.
            fork: The reason it gives for not continuing the first of them.
        """
        if not self.turns or not prompt_ids:
            return None, self.fork if prompt_ids else None
        start = None if continued_index is None else int(continued_index)
        candidates = self.turns if start is None else self.turns[start : start + 1]
        continued = next((turn for turn in candidates if turn.is_held_by(prompt_ids)), None)
        if continued is self.turns[0]:
            return continued.call_id, self.fork
        reason = msgspec.convert(fork or "unsupported", ForkReason)
        return (None if continued is None else continued.call_id), self.fork or reason


@dataclass(slots=True)
class Conversations:
    """The sampled turns of one rollout, looked up by the conversation they end."""

    _turns: dict[int, list[SampledTurn]] = field(default_factory=dict)
    """Hash of a conversation → the turns that end it, oldest first."""
    _prompts: set[int] = field(default_factory=set)
    """Hashes of the conversations that were answered."""
    _answers: dict[tuple[Any, ...], list[SampledTurn]] = field(default_factory=dict)
    """Identity of an answer → the turns with that answer."""
    _calls: set[str] = field(default_factory=set)
    _count: int = 0

    @classmethod
    def of(cls, calls: Iterable[TokenCall]) -> Conversations:
        """Return the conversations of calls that were recorded before the engine was restarted."""
        conversations = cls()
        for call in calls:
            messages = [from_message(message) for message in call.messages]
            history = conversations.history(messages, call.tools, call.template_options, call.messages)
            conversations.add(call, history)
        return conversations

    def history(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[ToolSpec],
        template_options: Mapping[str, Any],
        own: Sequence[Message] | None = None,
    ) -> History:
        """Return how a call with these messages is related to the recorded ones; `own` are the same as woodshed's."""
        if not self._count or "assistant" not in [message["role"] for message in messages]:
            return History(messages=messages)
        identities = tuple([identity(message) for message in own or to_messages(messages)])
        options = _options(tools, template_options)
        hashes = _hashes(identities)
        lengths = range(len(identities), 0, -1)
        matching = [turn for length in lengths for turn in self._ending(identities[:length], hashes[length])]
        turns = tuple(turn for turn in matching if turn.options == options)[:_MAX_CANDIDATES]
        known = len(turns[0].identities) if turns else 0
        if any(len(turn.identities) > known for turn in matching):
            fork: ForkReason | None = "options_changed"
        else:
            fork = "history_edited" if self._is_edited(identities, hashes, known, options) else None
        return History(
            messages=[*turns[0].messages, *messages[known:]] if turns else messages,
            turns=turns,
            fork=fork,
            identities=identities,
        )

    def add(self, call: TokenCall, history: History) -> None:
        """Add a call's sampled turns; `history` is what `history()` returned for the call."""
        self._forget(call.call_id)
        if call.error is not None or not call.prompt_ids or self._count >= _MAX_TURNS:
            return
        prompt = history.identities
        if prompt is None:
            prompt = tuple([identity(message) for message in call.messages])
        options = _options(call.tools, call.template_options)
        self._prompts.add(_hashes(prompt)[-1])
        for completion in call.completions:
            if not completion.token_ids:
                continue
            answer = identity(completion.message)
            turn = SampledTurn(
                call_id=call.call_id,
                identities=(*prompt, answer),
                messages=[*history.messages, from_message(completion.message, completion.reasoning)],
                options=options,
                prompt_ids=call.prompt_ids,
                sampled_ids=completion.token_ids,
                is_rendered=call.continued_from is None,
            )
            self._turns.setdefault(_hashes(turn.identities)[-1], []).append(turn)
            self._answers.setdefault(answer, []).append(turn)
            self._calls.add(call.call_id)
            self._count += 1

    def _forget(self, call_id: str) -> None:
        """Remove the turns that a call sampled before the client repeated it."""
        if call_id in self._calls:
            self._calls.discard(call_id)
            for turns in (*self._turns.values(), *self._answers.values()):
                turns[:] = [turn for turn in turns if turn.call_id != call_id]

    def _ending(self, identities: _Identities, hash_: int) -> list[SampledTurn]:
        """Return the turns that end a conversation, newest first."""
        return [turn for turn in reversed(self._turns.get(hash_, ())) if turn.identities == identities]

    def _is_edited(self, identities: _Identities, hashes: Sequence[int], known: int, options: bytes) -> bool:
        """Whether a message after the first `known` is a sampled turn, or is in a position where one was sampled."""
        for index in range(known, len(identities)):
            message = identities[index]
            if message[0] != "assistant":
                continue
            # An example that the agent puts into its prompts may have the same text as an answer.
            sampled = (turn for turn in self._answers.get(message, ()) if message not in turn.identities[:-1])
            if hashes[index] in self._prompts or any(turn.options == options for turn in sampled):
                return True
        return False


def _options(tools: Sequence[ToolSpec], template_options: Mapping[str, Any]) -> bytes:
    """Return what the chat template gets besides the messages, as bytes to compare."""
    return msgspec.json.encode([[(t.name, t.description, t.parameters) for t in tools], template_options])


def _hashes(identities: _Identities) -> list[int]:
    """Return a hash for each prefix of a conversation, the empty one first."""
    hashes = [0]
    for message in identities:
        hashes.append(hash((hashes[-1], message)))
    return hashes
