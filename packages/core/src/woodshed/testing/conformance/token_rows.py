"""Rows about tokens: each sampled token is trained once, under the context it was sampled in, and nothing else is."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from woodshed.engine.trainer.batch import build_batch
from woodshed.testing.conformance.rows import Rows, each_way, look, system_of, tool_texts, turn_of
from woodshed.testing.conformance.truth import assert_faithful, text, thrown_away, trained_text
from woodshed.testing.conformance.upstream import strip_thoughts
from woodshed.testing.replies import Reply, Script, call_tool, call_tools, fail, in_order, say
from woodshed.types import (
    Completion,
    Message,
    SealedSession,
    StepRequest,
    TokenCall,
    ToolRequest,
    Trajectory,
    WeightedRollout,
)

TURNS = 10
_LIMIT = 6000
_TOO_LONG = (
    "This model's maximum context length is {limit} tokens. However, your request has {size} input tokens. Please "
    "reduce the length of the input messages."
)


class TokenRows(Rows):
    """Rows 1, 2, 8, 9, 10 and 18."""

    @each_way
    def test_row_01_identical_prompts_with_different_answers_are_both_trained(self, way: str) -> None:
        agent = self.twins(self.author.base_url)
        trajectory, _ = self.practise(in_order(say("heads"), say("tails")), lambda: self.go(way, agent, "Toss a coin."))

        first, second = (call.tokens for call in trajectory.calls)
        assert first.prompt_ids == second.prompt_ids
        assert first.call_id != second.call_id
        rows = assert_faithful(trajectory, self.engine.requests)
        assert sorted(trained_text(row) for row in rows) == ["heads|", "tails|"]

    @each_way
    def test_row_02_a_planner_and_two_interleaved_agents_of_ten_turns_are_three_rows(self, way: str) -> None:
        agent = self.team(self.author.base_url, tools=[look])
        trajectory, _ = self.practise(team_script(self), lambda: self.go(way, agent, "Count everything."))

        rows = assert_faithful(trajectory, self.engine.requests)
        assert len(trajectory.calls) == 3 * TURNS
        assert len(rows) == 3
        assert [len({c for c in row.call_ids if c}) for row in rows] == [TURNS] * 3
        for name in ("planner", "red", "blue"):
            assert sum(f"You are {name}." in text(row.token_ids) for row in rows) == 1

    def test_row_08_an_sdk_retry_is_one_record(self) -> None:
        agent = self.assistant(self.author.base_url, max_retries=2)
        # The gateway repeats a call to a model server that failed but lives, once.
        script = in_order(fail(500), fail(500), fail(429), say("at last"))
        trajectory, outcome = self.practise(script, lambda: self.run(agent, "Hello?"))

        (call,) = trajectory.calls
        assert outcome.text == "at last"
        assert (call.tokens.retries, call.tokens.error) == (2, None)
        assert call.note is not None
        assert (call.note.attempt, call.note.superseded, call.note.error) == (1, False, None)
        (row,) = assert_faithful(trajectory, self.engine.requests)
        assert trained_text(row) == "at last|"

    @each_way
    def test_row_08_only_the_attempt_whose_answer_was_used_is_trained(self, way: str) -> None:
        for means, agent in self.retrying(self.author.base_url).items():
            script = in_order(say("bad"), say("bad"), say("good"))
            trajectory, _ = self.practise(script, partial(self.go, way, agent, "Be good."))

            notes = [call.note for call in trajectory.calls if call.note is not None]
            assert [(n.attempt, n.superseded) for n in notes] == [(1, True), (2, True), (3, False)], means
            assert [trained_text(row) for row in assert_faithful(trajectory, self.engine.requests)] == ["good|"], means

    @each_way
    def test_row_09_where_a_template_strips_earlier_thinking_no_retokenised_token_is_trained(self, way: str) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])
        self.engine.vllm.template = strip_thoughts
        try:
            trajectory, outcome = self.practise(_thinking, lambda: self.go(way, agent, "How many?"))
        finally:
            self.engine.vllm.template = _as_it_is

        rows = assert_faithful(trajectory, self.engine.requests)
        assert "all counted" in outcome.text
        assert [trained_text(row).count("<think>") for row in rows] == [1, 1, 1]
        assert [text(row.token_ids).count("<think>") for row in rows] == [1, 1, 1]

    @each_way
    def test_row_09_arguments_that_are_written_anew_are_a_fork_and_never_trained_twice(self, way: str) -> None:
        spaced = ToolRequest(id="c1", name="look", arguments='{"item":    "lamps"}')
        agent = self.assistant(self.author.base_url, tools=[look])
        self.engine.vllm.tokens_of = _raw_ids
        try:
            script = in_order(call_tools(spaced), say("all counted"))
            trajectory, _ = self.practise(script, lambda: self.go(way, agent, "How many?"))
        finally:
            self.engine.vllm.tokens_of = None

        rows = assert_faithful(trajectory, self.engine.requests)
        assert [trained_text(row) for row in rows] == ['look({"item":    "lamps"})|', "all counted|"]
        assert '"item": "lamps"' in text(rows[1].token_ids)

    def test_row_10_compaction_starts_a_second_segment_that_shares_the_rollouts_advantage(self) -> None:
        trajectory, _ = self.practise(_counting(), lambda: self.run_compacting(self.author.base_url, [look]))

        rows = assert_faithful(trajectory, self.engine.requests)
        segments = [row for row in rows if '"item"' in trained_text(row)]
        assert len(segments) >= 2, "history was never replaced, or never gone on with"
        later = [s for s in segments if "SUMMARY: seven of each" in text(s.token_ids)]
        assert later, "no segment goes on from the summary"
        sealed = {trajectory.rollout_id: _session(trajectory), "other": _other()}
        batch = build_batch(_weighted(trajectory.rollout_id, thrown_away(trajectory)), sealed)
        compacted, other = batch.rollouts
        assert (compacted.advantage, compacted.rows) == (0.5, rows)
        # The divisor of every segment's tokens is the whole rollout's count: many segments weigh no more than one.
        assert compacted.tokens == sum(sum(row.trained) for row in rows)
        assert (other.tokens, len(batch.learning), batch.tokens) == (3, 2, compacted.tokens + 3)

    def test_row_18_where_weights_change_mid_rollout_every_token_has_its_version_and_logprob(self) -> None:
        self.needs_policy()
        tosser = self.assistant(self.author.base_url)
        before = [
            self.practise(in_order(say(side)), lambda: self.run(tosser, "Toss a coin."))[0]
            for side in ("heads", "tails")
        ]
        version = self.engine.open_some_policy()

        def learn(item: str) -> str:
            """Look something up while the weights change."""
            better, worse = (t.rollout_id for t in before)
            weighted = (
                WeightedRollout(rollout_id=better, advantage=1),
                WeightedRollout(rollout_id=worse, advantage=-1),
            )
            return f"version {self.engine.step(StepRequest(step_id='mid-rollout', rollouts=weighted)).version}"

        agent = self.assistant(self.author.base_url, tools=[learn])
        trajectory, _ = self.practise(
            lambda request: say("I know it now") if turn_of(request) else call_tool("learn", item="x"),
            lambda: self.run(agent, "What do you know?"),
        )

        (row,) = assert_faithful(trajectory, self.engine.requests)
        first, second = (call.tokens for call in trajectory.calls)
        assert f"version {version + 1}" in tool_texts(self.engine.requests[1].body)[0]
        tokens = zip(row.call_ids, row.weight_versions, row.logprobs, strict=True)
        assert [token for token in tokens if token[0] is not None] == [
            (call.call_id, own, logprob)
            for call, own in ((first, version), (second, version + 1))
            for logprob in call.completions[0].logprobs
        ]


def team_script(rows: Rows) -> Script:
    """Return the model of `team`: each agent speaks ten times; in its fifth turn the planner gives work to both."""

    def script(request: dict[str, Any]) -> Reply:
        name = next(n for n in ("planner", "red", "blue") if f"You are {n}." in system_of(request))
        turn = turn_of(request)
        if turn == TURNS - 1:
            return say(f"{name} is done")
        if name == "planner" and turn == 4:
            work = [(m, *rows.delegation(m, f"Count the {m} things.")) for m in ("red", "blue")]
            return call_tools(
                *(ToolRequest(id=f"call_{m}", name=tool, arguments=json.dumps(dict(a))) for m, tool, a in work)
            )
        return call_tool("look", id=f"call_{name}_{turn}", item=f"{name}-{turn}")

    return script


def _thinking(request: dict[str, Any]) -> Reply:
    turn = turn_of(request)
    thought = f"<think>This is thought {turn}.</think>"
    if turn == 2:
        return say(f"{thought}all counted")
    arguments = json.dumps({"item": f"lamps-{turn}"})
    return call_tools(ToolRequest(id=f"call_{turn}", name="look", arguments=arguments), content=thought)


def _counting() -> Script:
    """Return a model that counts eight times; it summarises where it has nothing to count with, within its context."""
    counted = itertools.count()

    def script(request: dict[str, Any]) -> Reply:
        size = sum(len(json.dumps(message)) for message in request["messages"])
        if size > _LIMIT:
            return Reply(status=400, content=_TOO_LONG.format(limit=_LIMIT, size=size))
        if not request.get("tools"):
            return say("SUMMARY: seven of each")
        turn = next(counted)
        long = f"item-{turn}" + ", and more" * 20
        return say("done") if turn >= 8 else call_tool("look", id=f"call_{turn}", item=long)

    return script


def _raw_ids(message: Message) -> tuple[int, ...]:
    """Return the tokens of a turn as it was sampled, with the spacing that a template does not give back."""
    calls = "".join(f"{call.name}({call.arguments})" for call in message.tool_requests)
    return (*((message.content or "") + calls).encode(), 256)


def _as_it_is(messages: Sequence[Message]) -> Sequence[Message]:
    return messages


def _session(trajectory: Trajectory) -> SealedSession:
    return SealedSession(rollout_id=trajectory.rollout_id, calls=tuple(c.tokens for c in trajectory.calls))


def _weighted(rollout_id: str, untrained: tuple[str, ...]) -> StepRequest:
    mine = WeightedRollout(rollout_id=rollout_id, advantage=0.5, untrained_call_ids=untrained)
    return StepRequest(step_id="s", rollouts=(mine, WeightedRollout(rollout_id="other", advantage=-0.5)))


def _other() -> SealedSession:
    """Return another rollout of the same step: one call of three tokens."""
    message = Message(role="assistant", content="no")
    completion = Completion(
        index=0, message=message, token_ids=(1, 2, 3), logprobs=(-0.1,) * 3, weight_versions=(0,) * 3
    )
    call = TokenCall(
        call_id="o", started_s=0.0, latency_s=0.0, messages=(message,), prompt_ids=(9,), completions=(completion,)
    )
    return SealedSession(rollout_id="other", calls=(call,))
