"""The tokens of a recorded turn → the tokens of a prompt that continues it. Pure: template and tokenizer are arguments.

A chat template does not always reproduce what a model sampled: it re-spaces tool arguments or moves blanks. So a prompt
that continues a sampled turn consists of the recorded tokens and the *delta*: the tokens of what the template writes
after that turn. All comparisons are between texts rendered by the same template. RecordedTurn tokens are only used if
the template would still write the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from woodshed.types import ForkReason

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedTurn:
    """A sampled turn with whose conversation the new messages begin."""

    length: int
    """How many leading messages its conversation has; the last of them is the turn itself."""
    prompt_ids: list[int]
    sampled_ids: list[int]
    is_rendered: bool
    """Whether the template wrote all of `prompt_ids`; False where they continue an earlier turn."""


class RenderConversation(Protocol):
    """The chat template with all its arguments but the messages."""

    def __call__(self, messages: Messages, *, generation: bool) -> str:
        """Return the text of a conversation, with the generation prompt at its end if `generation`."""


class Codec(Protocol):
    """A tokenizer that neither adds nor drops special tokens."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with no special tokens added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of some tokens, special ones included."""

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a special one, such as the token that ends a turn."""


class Fork(Exception):
    """The recorded tokens cannot be continued; the whole prompt is rendered instead."""

    def __init__(self, reason: ForkReason) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


def continue_turn(
    template: RenderConversation, codec: Codec, messages: Messages, new: str, turn: RecordedTurn
) -> list[int]:
    """Return the prompt's tokens: those of `turn`, then those of what the template writes after it.

    Args:
        template: Renders messages.
        codec: Encodes and decodes.
        messages: The new conversation, which begins with the turn's.
        new: The template's text of `messages`, with the generation prompt.
        turn: The turn to continue.

    Raises:
        Fork: It cannot be shown that the tokens stand for what the template writes.
    """
    recorded = codec.decode([*turn.prompt_ids, *turn.sampled_ids])
    # Usually the template writes the turn exactly as the model did; then this one comparison is the whole proof.
    delta = new[len(recorded) :] if new.startswith(recorded) else _text_after(template, codec, messages, new, turn)
    return [*turn.prompt_ids, *turn.sampled_ids, *_encode_delta(codec, new, delta, turn.sampled_ids)]


def _text_after(template: RenderConversation, codec: Codec, messages: Messages, new: str, turn: RecordedTurn) -> str:
    """Return what the template writes after a turn that the model wrote differently from the template.

    The generation prompt may contain something, such as an empty thought, that the template leaves out of a turn that
    is not the last. The model did not sample it, so nothing sampled is lost.
    """
    before, answer = messages[: turn.length - 1], messages[turn.length - 1]
    history, prompt = template(before, generation=False), template(before, generation=True)
    if not (new.startswith(history) and prompt.startswith(history)):
        raise Fork("template_rewrites")
    if turn.is_rendered and not _stands_for(codec, prompt, turn.prompt_ids):
        raise Fork("template_rewrites")
    if codec.is_special(turn.sampled_ids[-1]):
        end = codec.decode(turn.sampled_ids[-1:])
        if end not in template(messages[: turn.length], generation=False)[len(history) :]:
            raise Fork("turn_cut")
        return _text_after_end(new, len(history), end, answer)
    sampled, opening = codec.decode(turn.sampled_ids), prompt[len(history) :]
    for kept in range(len(opening), -1, -1):
        if new.startswith(opening[:kept] + sampled, len(history)):
            return new[len(history) + kept + len(sampled) :]
    raise Fork("turn_cut")


def _stands_for(codec: Codec, text: str, token_ids: list[int]) -> bool:
    """Whether tokens stand for a text; encoding is compared too, as some tokenizers do not decode exactly."""
    return codec.decode(token_ids) == text or codec.encode(text) == token_ids


def _text_after_end(new: str, start: int, end: str, answer: dict[str, Any]) -> str:
    """Return the text after the turn that begins at `start`; `end` is the text of the token that ends it."""
    parts = [answer.get("content"), answer.get("reasoning")]
    for call in answer.get("tool_calls") or ():
        parts += [call["function"]["name"], call["function"]["arguments"]]
    stop = new.find(end, start)
    if stop < 0 or any(end in str(part) for part in parts if part):
        raise Fork("turn_cut")
    if not _contains_answer(new[start:stop], answer):
        raise Fork("template_rewrites")
    return new[stop + len(end) :]


def _contains_answer(text: str, answer: dict[str, Any]) -> bool:
    """Whether a rendered turn contains all of an answer, blanks aside; the template must not drop a part unnoticed."""
    parts = [answer.get("content"), answer.get("reasoning")]
    parts += [call["function"]["name"] for call in answer.get("tool_calls") or ()]
    squeezed = "".join(text.split())
    return all("".join(part.split()) in squeezed for part in parts if part)


def _encode_delta(codec: Codec, new: str, delta: str, sampled_ids: list[int]) -> list[int]:
    """Return the delta's tokens after the sampled ones, after checking that they decode to the delta."""
    last = sampled_ids[-1]
    if codec.is_special(last):
        # A special token separates the texts on both sides. With it in front, the tokenizer does not treat the delta as
        # the beginning of a text.
        known = [last]
        before = codec.decode(known)
        token_ids = codec.encode(before + delta)
        is_exact = token_ids[:1] == known
        del token_ids[:1]
    else:
        known, before, token_ids, is_exact = sampled_ids, codec.decode(sampled_ids), codec.encode(delta), True
    if is_exact and codec.decode([*known, *token_ids]) == before + delta:
        return token_ids
    # Some tokenizers reproduce no rendered text at all, because they drop blanks after special tokens, for example.
    # For those the check cannot hold, and the encoded delta is accepted.
    if is_exact and codec.is_special(last) and codec.decode(codec.encode(new)) != new:
        return token_ids
    raise Fork("not_exact")
