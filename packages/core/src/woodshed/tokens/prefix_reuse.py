"""The calls of a rollout → how many of the sampled tokens that came back stood, token for token, where they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from woodshed.types import Completion, TokenCall, identity


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixReuse:
    """How well a rollout's calls merge into one row; `+` adds the figures of two rollouts."""

    resent: int = 0
    """Sampled tokens of the turns that a later call sent back."""
    continued: int = 0
    """Those of them that each such call's prompt holds verbatim, behind the prompt they were sampled under."""
    forks: Mapping[str, int] = field(default_factory=dict)
    """Reason → calls whose prompt does not go on from a turn that they sent back."""

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
    """Return how the calls of one rollout merge.

    A call sends back the longest sampled turn whose whole conversation (prompt and answer) its messages begin with. The
    turns before that one were counted by the calls that sent them back first.
    """
    turns: dict[tuple[Any, ...], list[_ResentTurn]] = {}
    for call in sorted(calls, key=lambda c: c.started_s):
        said = tuple(identity(message) for message in call.messages)
        sent_back = next((found for end in range(len(said), 0, -1) if (found := turns.get(said[:end]))), ())
        _note(sent_back, call)
        for completion in call.completions:
            if call.error is None and completion.token_ids:
                whole = (*said, identity(completion.message))
                turns.setdefault(whole, []).append(_ResentTurn(call.prompt_ids + completion.token_ids, completion))
    seen = [turn for alike in turns.values() for turn in alike if turn.is_sent_back]
    return PrefixReuse(
        resent=sum(len(turn.completion.token_ids) for turn in seen),
        continued=sum(len(turn.completion.token_ids) for turn in seen if turn.is_verbatim),
        forks=dict(Counter(call.fork for call in calls if call.fork is not None)),
    )


@dataclass(slots=True)
class _ResentTurn:
    """One sampled answer with its prompt, and what became of it."""

    token_ids: tuple[int, ...]
    completion: Completion
    is_sent_back: bool = False
    is_verbatim: bool = True


def _note(alike: Sequence[_ResentTurn], call: TokenCall) -> None:
    """Note which of several turns that say the same a call goes on from; the newest where it goes on from none."""
    if not alike:
        return
    held = [turn for turn in alike if call.prompt_ids[: len(turn.token_ids)] == turn.token_ids]
    turn = (held or alike)[-1]
    turn.is_sent_back = True
    turn.is_verbatim = turn.is_verbatim and bool(held)
