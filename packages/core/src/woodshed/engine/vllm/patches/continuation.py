"""From the tokens of a recorded turn to the tokens of a prompt that goes on from it. Pure: templates and tokenizers in.

A chat template does not always give back what a model sampled: arguments are re-spaced, blanks move. So the prompt of a
call that goes on from a sampled turn is made of the tokens that are there already, and of the *delta*: what the
template writes behind that turn. All comparisons are made in text, between renders by one template; nothing is taken
over that the template would now write otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from woodshed.types import ForkReason

Messages = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A sampled turn that the new messages begin with."""

    length: int
    """How many leading messages it covers; the last of them is the turn itself."""
    prompt_ids: list[int]
    sampled_ids: list[int]
    is_rendered: bool
    """Whether the template wrote all of `prompt_ids`; False where they were continued from an earlier turn."""


class RenderConversation(Protocol):
    """The chat template with everything but the messages filled in."""

    def __call__(self, messages: Messages, *, generation: bool) -> str:
        """Return the text of a conversation, up to where the next answer begins if `generation`."""


class Codec(Protocol):
    """A tokenizer that neither adds nor hides anything."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, with no special tokens added."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of some tokens, special ones included."""

    def is_special(self, token_id: int) -> bool:
        """Whether a token stands for no text of its own, such as one that ends a turn."""


class Fork(Exception):
    """The recorded tokens cannot be gone on from; the prompt is then rendered as a whole."""

    def __init__(self, reason: ForkReason) -> None:
        """Say why."""
        super().__init__(reason)
        self.reason = reason


def continued(template: RenderConversation, codec: Codec, messages: Messages, new: str, turn: Recorded) -> list[int]:
    """Return the prompt's tokens: those of `turn`, and those of what the template writes behind it.

    Args:
        template: Renders messages.
        codec: Encodes and decodes.
        messages: The new conversation; begins with the turn's.
        new: The template's text of `messages`, up to where the next answer begins.
        turn: What to go on from.

    Raises:
        Fork: It cannot be shown that the tokens say what the template says.
    """
    spoken = codec.decode([*turn.prompt_ids, *turn.sampled_ids])
    # Spelled by the model as the template spells it, which is the rule: one decode is the whole proof.
    delta = new[len(spoken) :] if new.startswith(spoken) else _behind(template, codec, messages, new, turn)
    return [*turn.prompt_ids, *turn.sampled_ids, *_encoded(codec, new, delta, turn.sampled_ids)]


def _behind(template: RenderConversation, codec: Codec, messages: Messages, new: str, turn: Recorded) -> str:
    """Return what the template writes behind a turn that the model spelled otherwise than the template does.

    The template may open an answer with something (an empty thought, say) that it leaves out of a turn that is not the
    last: that was its own, and all that was sampled is still there.
    """
    before, said = messages[: turn.length - 1], messages[turn.length - 1]
    closed, asked = template(before, generation=False), template(before, generation=True)
    if not (new.startswith(closed) and asked.startswith(closed)):
        raise Fork("template_rewrites")
    if turn.is_rendered and not _writes(codec, asked, turn.prompt_ids):
        raise Fork("template_rewrites")
    if codec.is_special(turn.sampled_ids[-1]):
        end = codec.decode(turn.sampled_ids[-1:])
        if end not in template(messages[: turn.length], generation=False)[len(closed) :]:
            raise Fork("turn_cut")
        return _behind_end(new, len(closed), end, said)
    sampled, opening = codec.decode(turn.sampled_ids), asked[len(closed) :]
    for kept in range(len(opening), -1, -1):
        if new.startswith(opening[:kept] + sampled, len(closed)):
            return new[len(closed) + kept + len(sampled) :]
    raise Fork("turn_cut")


def _writes(codec: Codec, text: str, token_ids: list[int]) -> bool:
    """Whether some tokens are a text; the second way is for tokenizers that cannot decode exactly."""
    return codec.decode(token_ids) == text or codec.encode(text) == token_ids


def _behind_end(new: str, start: int, end: str, said: dict[str, Any]) -> str:
    """Return what follows the turn that begins at `start`, where `end` is how the model ended it."""
    parts = [said.get("content"), said.get("reasoning")]
    for call in said.get("tool_calls") or ():
        parts += [call["function"]["name"], call["function"]["arguments"]]
    found = new.find(end, start)
    if found < 0 or any(end in str(part) for part in parts if part):
        raise Fork("turn_cut")
    if not _says(new[start:found], said):
        raise Fork("template_rewrites")
    return new[found + len(end) :]


def _says(text: str, said: dict[str, Any]) -> bool:
    """Whether a rendered turn still holds all that was said, blanks aside: nothing may be dropped in silence."""
    parts = [said.get("content"), said.get("reasoning")]
    parts += [call["function"]["name"] for call in said.get("tool_calls") or ()]
    squeezed = "".join(text.split())
    return all("".join(part.split()) in squeezed for part in parts if part)


def _encoded(codec: Codec, new: str, delta: str, sampled_ids: list[int]) -> list[int]:
    """Return the delta's tokens as they are behind the sampled ones, having decoded them again."""
    last = sampled_ids[-1]
    if codec.is_special(last):
        # A special token keeps the texts on both sides of it apart. With it in front, the tokenizer does not take the
        # delta for the beginning of a text.
        known = [last]
        before = codec.decode(known)
        token_ids = codec.encode(before + delta)
        is_exact = token_ids[:1] == known
        del token_ids[:1]
    else:
        known, before, token_ids, is_exact = sampled_ids, codec.decode(sampled_ids), codec.encode(delta), True
    if is_exact and codec.decode([*known, *token_ids]) == before + delta:
        return token_ids
    # A tokenizer that gives no rendered text back (it drops blanks behind special tokens, say) is held to its own word.
    if is_exact and codec.is_special(last) and codec.decode(codec.encode(new)) != new:
        return token_ids
    raise Fork("not_exact")
