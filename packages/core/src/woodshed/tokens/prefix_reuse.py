"""The calls of a rollout → how many of the sampled tokens that a later call sent back were kept token for token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.types import Completion, TokenCall, identity


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixReuse:
    """How well a rollout's calls merge into one row; `+` adds two rollouts."""

    resent: int = 0
    """Sampled tokens of the turns that a later call sent back."""
    continued: int = 0
    """Those of them that every such later prompt contains verbatim, right after the prompt they were sampled under."""
    forks: Mapping[str, int] = field(default_factory=dict)
    """Reason → number of calls whose prompt does not continue a turn that they sent back."""

    @property
    def ratio(self) -> float:
        """The share of `continued` in `resent`; 1 where nothing was sent back."""
        return self.continued / self.resent if self.resent else 1.0

    def __add__(self, other: PrefixReuse) -> PrefixReuse:
        return PrefixReuse(
            resent=self.resent + other.resent,
            continued=self.continued + other.continued,
            forks=dict(Counter(self.forks) + Counter(other.forks)),
        )


def measure_prefix_reuse(calls: Sequence[TokenCall]) -> PrefixReuse:
    """Return how well the calls of one rollout merge into one row.

    A call counts for the longest recorded turn whose whole conversation (prompt and answer) its messages begin with;
    the turns before that one were counted by the calls that sent them back first. A call that the engine refused before
    it had a prompt, such as one longer than the context, says nothing of how its conversation would have been rendered.
    """
    turns: dict[tuple[Any, ...], list[_ResentTurn]] = {}
    for call in sorted(calls, key=lambda c: c.started_s):
        conversation = tuple(identity(message) for message in call.messages)
        prefixes = (conversation[:length] for length in range(len(conversation), 0, -1))
        sent_back = next((turns[prefix] for prefix in prefixes if turns.get(prefix)), ())
        if call.prompt_ids:
            _note(sent_back, call)
        for completion in call.completions:
            if call.error is None and completion.token_ids:
                answered = (*conversation, identity(completion.message))
                turns.setdefault(answered, []).append(_ResentTurn(call.prompt_ids + completion.token_ids, completion))
    resent = [turn for same in turns.values() for turn in same if turn.is_sent_back]
    return PrefixReuse(
        resent=sum(len(turn.completion.token_ids) for turn in resent),
        continued=sum(len(turn.completion.token_ids) for turn in resent if turn.is_verbatim),
        forks=dict(Counter(call.fork for call in calls if call.fork is not None)),
    )


@dataclass(slots=True)
class _ResentTurn:
    """One sampled answer with its prompt, and whether later calls kept it."""

    token_ids: tuple[int, ...]
    completion: Completion
    is_sent_back: bool = False
    is_verbatim: bool = True


def _note(same: Sequence[_ResentTurn], call: TokenCall) -> None:
    """Mark, of several turns with equal text, the newest that the call continues, or else the newest of all."""
    if not same:
        return
    verbatim = [turn for turn in same if call.prompt_ids[: len(turn.token_ids)] == turn.token_ids]
    turn = (verbatim or same)[-1]
    turn.is_sent_back = True
    turn.is_verbatim = turn.is_verbatim and bool(verbatim)
