"""Hypothesis: trajectories as agents leave them, with content that formats like to lose."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from woodshed.types import (
    CallMetadata,
    Completion,
    Failure,
    Message,
    ModelCall,
    Score,
    TokenCall,
    ToolCall,
    ToolRequest,
    ToolSpec,
    Trajectory,
)

# Everything that UTF-8 can write, control characters and astral planes included.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", " ", "\x00\x1b[31m", "a\u2028b\r\nc", "🧪" * 9, '{"role": "user"}', "</tool_call>", "ﷺ" * 30]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
ARGUMENTS = st.one_of(
    OBJECTS.map(json.dumps),
    OBJECTS.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))),
    st.sampled_from(
        [
            "", "null", "[1, 2]", "not json", '{"a": NaN}', '{"a": 1, "a": 2}', '{"x": "\\ud800"}', "[" * 3000,
            '{"a": 1e999}', '{"a": ' + "9" * 4500 + "}", json.dumps({"text": "x" * 5_000}), '{"a": 1.0, "b": 1e2}',
        ]
    ),
)  # fmt: skip
REQUESTS = st.builds(
    ToolRequest, id=st.sampled_from(["c1", "c2", "", "call_0"]) | TEXTS, name=TEXTS, arguments=ARGUMENTS
)
ANSWERS = st.builds(
    Message,
    role=st.just("assistant"),
    content=st.none() | TEXTS,
    tool_requests=st.lists(REQUESTS, max_size=3).map(tuple),
)
TOOLS = st.lists(
    st.builds(ToolSpec, name=TEXTS, description=TEXTS, parameters=st.dictionaries(TEXTS, JSON, max_size=2)), max_size=2
).map(tuple)
CONTEXT = st.one_of(
    st.builds(Message, role=st.sampled_from(["user", "system"]), content=TEXTS, name=st.none() | TEXTS),
    st.builds(Message, role=st.just("tool"), content=TEXTS, tool_call_id=st.sampled_from(["c1", "", "nobody"]) | TEXTS),
    ANSWERS,
)
LOGPROBS = st.floats(-50, 0) | st.sampled_from([float("nan"), float("-inf"), -5e-324, -1e-17])
SAMPLING = st.sampled_from(
    [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 1.0, "seed": 2**40}, {"temperature": 0.0}]
)
FAILURES = st.builds(Failure, kind=st.just("ValueError"), message=TEXTS, where=st.none() | TEXTS)


@st.composite
def completions(draw: st.DrawFn, index: int) -> Completion:
    """One answer; the log-probabilities may be missing or not finite."""
    ids = tuple(draw(st.lists(st.integers(0, 2**17), max_size=4)))
    some = draw(st.booleans()) or draw(st.booleans())
    return Completion(
        index=index,
        message=draw(ANSWERS),
        reasoning=draw(st.none() | TEXTS),
        token_ids=ids,
        logprobs=tuple(draw(LOGPROBS) for _ in ids) if some else (),
        weight_versions=tuple(draw(st.integers(0, 3)) for _ in ids),
        finish_reason=draw(st.sampled_from(["stop", "tool_calls", "length", None])),
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Up to four calls that go on from, fork or ignore each other, of agents that start each other."""
    calls: list[ModelCall] = []
    for number in range(draw(st.integers(1, 4))):
        earlier = draw(st.sampled_from(calls)).tokens if calls and draw(st.booleans()) else None
        new = tuple(draw(st.lists(CONTEXT, min_size=0 if earlier else 1, max_size=3)))
        answered = [draw(completions(k)) for k in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2])))]
        said: tuple[Message, ...] = ()
        prompt: tuple[int, ...] = tuple(draw(st.lists(st.integers(0, 9), max_size=3)))
        if earlier is not None and earlier.completions:
            used = draw(st.sampled_from(earlier.completions))
            said = (*earlier.messages, used.message)
            prompt = (*earlier.prompt_ids, *used.token_ids, *prompt)
        tokens = TokenCall(
            call_id=f"call-{number}",
            started_s=float(number) + draw(st.sampled_from([0.0, 1_760_000_000.25])) * bool(calls == []),
            latency_s=0.5,
            messages=(*said, *new),
            tools=draw(TOOLS) if earlier is None else earlier.tools,
            prompt_ids=prompt,
            completions=tuple(answered),
            sampling=draw(SAMPLING),
            constrained=draw(st.booleans()) and draw(st.booleans()),
            retries=draw(st.integers(0, 2)),
            error=draw(FAILURES) if not answered else None,
        )
        note = CallMetadata(
            call_id=tokens.call_id,
            agent=draw(st.sampled_from([None, "planner", "red"])),
            parent_call_id=draw(st.sampled_from([None, "call-0", "gone"])),
            superseded=draw(st.booleans()) and draw(st.booleans()),
        )
        calls.append(ModelCall(tokens=tokens, note=note if draw(st.booleans()) else None))
    return Trajectory(
        rollout_id="rollout",
        scenario_id="scenario",
        calls=tuple(calls),
        tool_calls=tuple(draw(st.lists(TOOL_CALLS, max_size=2))),
        output=draw(JSON),
        metrics=draw(st.dictionaries(TEXTS, st.floats(), max_size=2)),
        status=draw(st.sampled_from(["completed", "failed"])),
    )


TOOL_CALLS = st.builds(
    ToolCall,
    tool_call_id=st.sampled_from(["c1", "", None]),
    name=TEXTS,
    arguments=JSON,
    result=st.none() | TEXTS,
    error=st.none() | FAILURES,
    agent=st.sampled_from([None, "red"]),
)
SCORES = st.none() | st.builds(Score, rollout_id=st.just("rollout"), value=st.floats(0, 1), explanation=TEXTS)


def rows_of(calls: Any) -> Any:
    """Return what the training makes of calls, thrown-away answers left out."""
    from woodshed.tokens import build_rows

    thrown_away = [call.tokens.call_id for call in calls if call.superseded]
    return build_rows([call.tokens for call in calls], untrained_call_ids=thrown_away)
