"""What would be trained of a trajectory, held against what the model server itself says it sampled."""

from __future__ import annotations

from collections.abc import Sequence

from woodshed.testing.conformance.upstream import Served
from woodshed.tokens import Row, build_rows, why_untrained
from woodshed.types import TokenCall, Trajectory


def thrown_away(trajectory: Trajectory) -> tuple[str, ...]:
    """Return the calls whose answer the framework did not use."""
    return tuple(c.tokens.call_id for c in trajectory.calls if c.superseded)


def rows_of(trajectory: Trajectory) -> tuple[Row, ...]:
    """Return the rows that training makes of a trajectory."""
    return build_rows([call.tokens for call in trajectory.calls], untrained_call_ids=thrown_away(trajectory))


def text(token_ids: Sequence[int]) -> str:
    """Return scripted tokens as text; the end of a turn is a bar."""
    return bytes(token if token < 256 else ord("|") for token in token_ids).decode(errors="replace")


def trained_text(row: Row) -> str:
    """Return what a row trains, as text."""
    return text([token for token, is_trained in zip(row.token_ids, row.trained, strict=True) if is_trained])


def assert_faithful(trajectory: Trajectory, served: Sequence[Served]) -> tuple[Row, ...]:
    """Return the rows, after checking every promise that they make.

    Each sampled token of a used call is trained exactly once; the tokens before it are what the model server had before
    it; its log-probability and its weight version are the model server's own; nothing else is trained.
    """
    rows = rows_of(trajectory)
    calls = {call.tokens.call_id: call.tokens for call in trajectory.calls}
    truth = [served_call.call for served_call in served]
    trained: dict[str, int] = {}
    for row in rows:
        for place, call_id in enumerate(row.call_ids):
            assert row.trained[place] == (call_id is not None)
            if call_id is not None:
                number = trained.get(call_id, 0)
                _assert_token(row, place, number, _sampled(calls[call_id], truth))
                trained[call_id] = number + 1
    used = [c for i, c in calls.items() if i not in thrown_away(trajectory) and why_untrained(c) is None]
    assert trained == {c.call_id: len(c.completions[0].token_ids) for c in used}
    return rows


def _sampled(recorded: TokenCall, truth: Sequence[TokenCall]) -> TokenCall:
    """Return the model server's own account of a recorded call."""
    completion = recorded.completions[0]
    fitting = [
        call
        for call in truth
        if call.prompt_ids == recorded.prompt_ids
        and call.completions[0].token_ids == completion.token_ids
        and call.completions[0].weight_versions == completion.weight_versions
    ]
    assert fitting, f"the model server never served what is recorded as {recorded.call_id!r}"
    return fitting[0]


def _assert_token(row: Row, place: int, number: int, truth: TokenCall) -> None:
    sampled = truth.completions[0]
    assert row.token_ids[:place] == truth.prompt_ids + sampled.token_ids[:number], "trained under another context"
    assert row.token_ids[place] == sampled.token_ids[number]
    assert row.logprobs[place] == sampled.logprobs[number]
    assert row.weight_versions[place] == sampled.weight_versions[number]
