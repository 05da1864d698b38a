"""Which recorded turn a new call goes on from, and why a turn that comes back is in none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from woodshed.engine.gateway.conversations import Conversations, History
from woodshed.engine.gateway.messages import to_messages
from woodshed.types import Completion, Failure, Message, TokenCall, ToolRequest, ToolSpec

SYSTEM = {"role": "system", "content": "You keep a shop."}
ASKED = {"role": "user", "content": "How much?"}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "price", "arguments": '{ "of":"harp" }'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "12"}
CALL = Message(role="assistant", tool_requests=(ToolRequest(id="c1", name="price", arguments='{"of": "harp"}'),))
TOOLS = (ToolSpec(name="price"),)
_numbers = itertools.count()


class Rollout:
    """One session's calls, as the gateway keeps them."""

    def __init__(self) -> None:
        self.kept = Conversations()
        self.calls: list[TokenCall] = []

    def sampled(self, messages: list[dict[str, Any]], *answers: Message | str, **changes: Any) -> TokenCall:
        number = next(_numbers)
        told: dict[str, Any] = {"tools": TOOLS, "call_id": f"call-{number}", "started_s": float(number)} | changes
        reasoning = told.pop("reasoning", None)
        said = [Message(role="assistant", content=a) if isinstance(a, str) else a for a in answers]
        call = TokenCall(
            latency_s=0.1,
            messages=tuple(to_messages(messages)),
            prompt_ids=(number, 0),
            completions=tuple(
                Completion(
                    index=index,
                    message=message,
                    reasoning=reasoning,
                    token_ids=(number, index),
                    logprobs=(-1.0, -1.0),
                    weight_versions=(0, 0),
                )
                for index, message in enumerate(said)
            ),
            **told,
        )
        self.kept.add(call, self.history(messages))
        self.calls.append(call)
        return call

    def history(self, messages: list[dict[str, Any]], tools: Any = TOOLS, **options: Any) -> History:
        return self.kept.history(messages, tools, options)


def held(history: History) -> list[tuple[str, tuple[int, ...]]]:
    return [(turn.call_id, turn.sampled_ids) for turn in history.turns]


def test_a_first_call_and_another_agents_go_on_from_nothing() -> None:
    rollout = Rollout()
    first = rollout.history([SYSTEM, ASKED])
    rollout.sampled([SYSTEM, ASKED], "12.")
    other = rollout.history([{"role": "system", "content": "You plan."}, ASKED])

    assert (first.turns, first.fork, other.turns, other.fork) == ((), None, (), None)


def test_the_longest_conversation_is_gone_on_from_in_its_own_words() -> None:
    rollout = Rollout()
    one = rollout.sampled([SYSTEM, ASKED], CALL, reasoning="Look it up.")
    two = rollout.sampled([SYSTEM, ASKED, CALLED, RESULT], " 12. ")
    again = [SYSTEM, ASKED, CALLED, RESULT, {"role": "assistant", "content": "12."}, ASKED]
    found = rollout.history(again)

    assert held(found) == [(two.call_id, two.completions[0].token_ids), (one.call_id, one.completions[0].token_ids)]
    assert [turn.to_json()["length"] for turn in found.turns] == [5, 3]
    assert found.fork is None
    assert found.messages[2]["reasoning"] == "Look it up."
    assert found.messages[2]["tool_calls"][0]["function"]["arguments"] == '{"of": "harp"}'
    assert found.messages[4] == {"role": "assistant", "content": " 12. "}
    assert found.messages[5:] == again[5:]


def test_a_turn_is_gone_on_from_in_its_own_words_where_the_model_numbers_its_calls_anew() -> None:
    """The same id, name and arguments in a later turn, written otherwise: their place tells them apart."""
    rollout = Rollout()
    later = CALL.model_copy(
        update={"tool_requests": (ToolRequest(id="c1", name="price", arguments='{"of":"harp"}'),), "content": " "}
    )
    one = rollout.sampled([SYSTEM, ASKED], CALL)
    two = rollout.sampled([SYSTEM, ASKED, CALLED, RESULT], later)
    found = rollout.history([SYSTEM, ASKED, CALLED, RESULT, CALLED, RESULT])

    assert [turn.call_id for turn in found.turns] == [two.call_id, one.call_id]
    assert found.fork is None
    written = [found.messages[index]["tool_calls"][0]["function"]["arguments"] for index in (2, 4)]
    assert written == ['{"of": "harp"}', '{"of":"harp"}']


def test_the_choice_that_came_back_is_the_one() -> None:
    rollout = Rollout()
    call = rollout.sampled([SYSTEM, ASKED], "12.", "13.", "14.")

    for index, text in enumerate(["12.", "13.", "14."]):
        found = rollout.history([SYSTEM, ASKED, {"role": "assistant", "content": text}, ASKED])
        assert held(found) == [(call.call_id, call.completions[index].token_ids)]


@pytest.mark.parametrize(
    ("messages", "fork"),
    [
        ([SYSTEM, {"role": "user", "content": "How many?"}, CALLED, RESULT], "history_edited"),
        ([{"role": "system", "content": "It is 12:01."}, ASKED, CALLED, RESULT], "history_edited"),
        ([SYSTEM, ASKED, {"role": "assistant", "content": "(summary)"}, ASKED], "history_edited"),
        ([SYSTEM, ASKED, ASKED], None),
        ([SYSTEM, ASKED], None),
    ],
    ids=["question", "system", "answer", "no turn", "same prompt"],
)
def test_a_changed_message_is_an_edit_where_a_turn_came_back(messages: list[dict[str, Any]], fork: str | None) -> None:
    rollout = Rollout()
    rollout.sampled([SYSTEM, ASKED], CALL)

    assert (rollout.history(messages).turns, rollout.history(messages).fork) == ((), fork)


def test_a_later_turn_that_was_edited_is_a_fork_from_the_one_before() -> None:
    rollout = Rollout()
    one = rollout.sampled([SYSTEM, ASKED], CALL)
    rollout.sampled([SYSTEM, ASKED, CALLED, RESULT], "12.")
    found = rollout.history([SYSTEM, ASKED, CALLED, RESULT, {"role": "assistant", "content": "13."}, ASKED])

    assert [turn.call_id for turn in found.turns] == [one.call_id]
    assert found.fork == "history_edited"


def test_examples_in_the_prompt_are_no_turns() -> None:
    rollout = Rollout()
    examples = [SYSTEM, ASKED, {"role": "assistant", "content": "12."}]
    rollout.sampled([*examples, ASKED], "12.")

    assert rollout.history([*examples, {"role": "user", "content": "Why?"}]).fork is None


def test_other_tools_or_template_options_are_named() -> None:
    rollout = Rollout()
    rollout.sampled([SYSTEM, ASKED], CALL)
    messages = [SYSTEM, ASKED, CALLED, RESULT]

    assert rollout.history(messages, ()).fork == "options_changed"
    assert rollout.history(messages, TOOLS, enable_thinking=False).fork == "options_changed"
    assert rollout.history(messages).fork is None


def test_a_failed_call_is_not_gone_on_from_and_a_repeated_one_only_in_its_last_form() -> None:
    rollout = Rollout()
    rollout.sampled([SYSTEM, ASKED], "12.", error=Failure(kind="CallCancelled", message="gone"))
    rollout.sampled([SYSTEM, ASKED], "13.", call_id="same")
    rollout.sampled([SYSTEM, ASKED], "14.", call_id="same")

    def turns(text: str) -> int:
        return len(rollout.history([SYSTEM, ASKED, {"role": "assistant", "content": text}]).turns)

    assert [turns("12."), turns("13."), turns("14.")] == [0, 0, 1]


def test_an_engine_that_was_restarted_knows_the_same() -> None:
    rollout = Rollout()
    rollout.sampled([SYSTEM, ASKED], CALL, reasoning="Look it up.")
    rollout.sampled([SYSTEM, ASKED, CALLED, RESULT], "12.")
    again = Conversations.of(TokenCall.model_validate_json(call.model_dump_json()) for call in rollout.calls)
    messages = [SYSTEM, ASKED, CALLED, RESULT, {"role": "assistant", "content": "12."}, ASKED]

    assert again.history(messages, TOOLS, {}) == rollout.history(messages)


def test_what_became_of_a_prompt_is_seen_in_its_tokens() -> None:
    rollout = Rollout()
    one = rollout.sampled([SYSTEM, ASKED], CALL)
    two = rollout.sampled([SYSTEM, ASKED, CALLED, RESULT], "12.")
    found = rollout.history([SYSTEM, ASKED, CALLED, RESULT, {"role": "assistant", "content": "12."}, ASKED])
    on_two, on_one = ([*call.prompt_ids, *call.completions[0].token_ids, 9] for call in (two, one))

    assert found.outcome(on_two, "0", None) == (two.call_id, None)
    assert found.outcome(on_two, None, None) == (two.call_id, None)
    assert found.outcome(on_one, "1", "turn_cut") == (one.call_id, "turn_cut")
    assert found.outcome([9, 9], None, "not_exact") == (None, "not_exact")
    assert found.outcome([9, 9], None, None) == (None, "unsupported")
    assert found.outcome([], None, None) == (None, None)
