"""Random agents: conversations that append, edit, branch, fail and sample several answers, with unique log-probabilities.

The log-probability of every sampled token is unique, so a token can be recognised wherever it turns up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.types import Completion, Failure, Message, TokenCall
from hypothesis import strategies as st


def completion(
    token_ids: Sequence[int], *, first: int = 0, version: int = 0, index: int = 0, logprobs: Sequence[float] | None = None
) -> Completion:
    """Return a completion whose log-probabilities are -1 - `first`, -2 - `first`, …"""
    told = tuple(-1.0 - first - k for k in range(len(token_ids))) if logprobs is None else tuple(logprobs)
    return Completion(
        index=index,
        message=Message(role="assistant", content="…"),
        token_ids=tuple(token_ids),
        logprobs=told,
        weight_versions=(version,) * len(token_ids),
    )


def call(call_id: str, prompt_ids: Sequence[int], *completions: Completion, **changes: Any) -> TokenCall:
    """Return a call at temperature 1."""
    told: dict[str, Any] = {"started_s": 0.0, "latency_s": 0.1, "messages": (), "sampling": {"temperature": 1.0}}
    return TokenCall(
        call_id=call_id, prompt_ids=tuple(prompt_ids), completions=completions, **{**told, **changes}
    )


@dataclass
class Played:
    """One random rollout, and what the engine saw for each token that must be trained."""

    calls: list[TokenCall] = field(default_factory=list)
    untrained_call_ids: set[str] = field(default_factory=set)
    seen: dict[float, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    """Log-probability of a token → the context it was sampled in, and the token."""


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
FATES = st.sampled_from(["fine"] * 6 + ["failed", "constrained", "superseded", "greedy", "nan"])


@st.composite
def rollouts(draw: st.DrawFn) -> Played:
    """Draw a rollout of up to ten calls over an alphabet so small that prefixes meet by chance."""
    played = Played()
    histories: list[tuple[int, ...]] = []
    for number in range(draw(st.integers(0, 10))):
        prompt = draw(TOKENS)
        if histories and draw(st.booleans()):
            history = draw(st.sampled_from(histories))
            # Cut short: the framework dropped the end of turn, or edited the history inside the sampled tokens.
            kept = draw(st.sampled_from([len(history), len(history), draw(st.integers(0, len(history)))]))
            prompt = history[:kept] + draw(st.one_of(st.just(()), TOKENS)) or prompt
        fate = draw(FATES)
        answers = draw(st.lists(TOKENS, min_size=1, max_size=3))
        histories += [prompt + answer for answer in answers]
        _play(played, number, prompt, answers, fate)
    return played


def _play(played: Played, number: int, prompt: tuple[int, ...], answers: list[tuple[int, ...]], fate: str) -> None:
    completions = [completion(a, first=1000 * number + 100 * k, index=k, version=number) for k, a in enumerate(answers)]
    if fate == "nan":
        completions[0] = completion(answers[0], logprobs=[float("nan")] * len(answers[0]))
    changes: dict[str, Any] = {"started_s": float(number)}
    if fate == "failed":
        changes |= {"error": Failure(kind="TimeoutError", message="gone")}
    if fate == "constrained":
        changes |= {"constrained": True}
    if fate == "greedy":
        changes |= {"sampling": {"temperature": 0.0}}
    if fate == "superseded":
        played.untrained_call_ids.add(f"c{number}")
    played.calls.append(call(f"c{number}", prompt, *completions, **changes))
    if fate in ("fine", "nan"):
        for done in completions[fate == "nan" :]:
            for k, (token, logprob) in enumerate(zip(done.token_ids, done.logprobs, strict=True)):
                played.seen[logprob] = (prompt + done.token_ids[:k], token)
