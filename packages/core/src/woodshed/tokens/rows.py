"""The calls of one rollout → rows: every sampled token once, in exactly the context it was sampled in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from woodshed.types import Completion, TokenCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One token sequence that the engine processed, and which tokens it sampled. All tuples have the same length."""

    token_ids: tuple[int, ...] = ()
    trained: tuple[bool, ...] = ()
    """True where the policy sampled the token and this row trains it."""
    logprobs: tuple[float | None, ...] = ()
    """The engine's log-probability (nats) of a trained token; None elsewhere."""
    weight_versions: tuple[int | None, ...] = ()
    """Version of the weights that sampled a trained token; None elsewhere."""
    temperatures: tuple[float | None, ...] = ()
    """Temperature at which a trained token was sampled; None elsewhere."""
    call_ids: tuple[str | None, ...] = ()
    """The call that sampled a trained token; None elsewhere."""

    def __post_init__(self) -> None:
        """Check that all tuples have the same length."""
        columns = (self.trained, self.logprobs, self.weight_versions, self.temperatures, self.call_ids)
        assert all(len(column) == len(self.token_ids) for column in columns)


def build_rows(calls: Iterable[TokenCall], *, untrained_call_ids: Collection[str] = ()) -> tuple[Row, ...]:
    """Return the fewest rows in which each sampled token of a rollout is trained exactly once.

    Calls are taken in order of start. A call whose prompt begins with everything a row holds continues that row (the
    longest one, where several fit); the new part of its prompt (tool results, the next question) is context. Any other
    prompt is a fork at its first divergent token: it starts a row of its own in which all of the prompt is context, so
    tokens that an earlier call sampled stay trained in the earlier row only. With `n > 1` each completion is
    a row that a later call may continue.

    Args:
        calls: The recorded calls of one rollout.
        untrained_call_ids: Calls whose answers a framework's retry replaced. Their tokens, and those of the calls that
            `why_untrained` names, occur only as context, where a later prompt repeats them.
    """
    rows: list[Row] = []
    for call in sorted(calls, key=lambda c: c.started_s):
        if call.call_id in untrained_call_ids or why_untrained(call) is not None:
            continue
        leaf = _longest_leaf(rows, call.prompt_ids)
        for completion in call.completions:
            if _unusable(completion) is not None:
                continue
            if leaf is None:
                rows.append(_continued(Row(), call, completion))
            else:
                rows[leaf] = _continued(rows[leaf], call, completion)
                leaf = None
    return tuple(rows)


def why_untrained(call: TokenCall) -> str | None:
    """Return why none of a call's tokens can be trained, or None where some can."""
    if call.error is not None:
        return f"call failed: {call.error.kind}"
    if call.constrained:
        return "decoding was constrained, so its log-probabilities are not the policy's"
    if temperature(call) <= 0:
        return "decoded greedily (temperature 0), so nothing was sampled"
    if not call.prompt_ids:
        return "no prompt ids were recorded"
    reasons = [_unusable(completion) for completion in call.completions]
    if None in reasons:
        return None
    return reasons[0] if reasons else "no completion was recorded"


def temperature(call: TokenCall) -> float:
    """Return the temperature a call was sampled at; 1 where the request named none."""
    named = call.sampling.get("temperature")
    return 1.0 if named is None else float(named)


def _unusable(completion: Completion) -> str | None:
    """Why a completion cannot be trained; its tokens are then context wherever a later prompt holds them."""
    count = len(completion.token_ids)
    if count == 0:
        return "the completion is empty"
    if len(completion.logprobs) != count or len(completion.weight_versions) != count:
        return (
            f"the completion has {count} tokens but {len(completion.logprobs)} log-probabilities "
            f"and {len(completion.weight_versions)} weight versions"
        )
    if not all(math.isfinite(logprob) for logprob in completion.logprobs):
        return "the completion has a log-probability that is not finite"
    return None


def _longest_leaf(rows: Sequence[Row], prompt_ids: tuple[int, ...]) -> int | None:
    fitting = [k for k, row in enumerate(rows) if prompt_ids[: len(row.token_ids)] == row.token_ids]
    return max(fitting, key=lambda k: len(rows[k].token_ids), default=None)


def _continued(row: Row, call: TokenCall, completion: Completion) -> Row:
    """Return `row` with the rest of the call's prompt as context and the completion as trained tokens."""
    context = call.prompt_ids[len(row.token_ids) :]
    nothing = (None,) * len(context)
    count = len(completion.token_ids)
    return Row(
        token_ids=row.token_ids + context + completion.token_ids,
        trained=row.trained + (False,) * len(context) + (True,) * count,
        logprobs=row.logprobs + nothing + completion.logprobs,
        weight_versions=row.weight_versions + nothing + completion.weight_versions,
        temperatures=row.temperatures + nothing + (temperature(call),) * count,
        call_ids=row.call_ids + nothing + (call.call_id,) * count,
    )
