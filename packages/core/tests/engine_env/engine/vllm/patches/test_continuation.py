"""A prompt goes on from sampled tokens exactly, by every family's template, or says why it does not."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from chat_families import FAMILIES, Chat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from woodshed.engine.vllm.patches.continuation import Fork, RecordedTurn, continue_turn

SYSTEM = {"role": "system", "content": "You keep a music shop."}
TOOL_FAMILIES = [name for name, family in FAMILIES.items() if family.tool_call]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


class Play:
    """A conversation as it goes: what was sent, what was sampled, and the prompts as they were served."""

    def __init__(self, name: str, *messages: dict[str, Any]) -> None:
        self.chat = Chat(name)
        self.messages = list(messages)
        self.turn: RecordedTurn | None = None
        self.fork: str | None = None
        self.served: list[int] = []

    def serve(self) -> list[int]:
        """Return the next prompt: continued where that can be, rendered where not."""
        new = self.chat(self.messages, generation=True)
        self.fork = None
        try:
            assert self.turn is not None
            self.served, rendered = continue_turn(self.chat, self.chat, self.messages, new, self.turn), False
        except (Fork, AssertionError) as error:
            self.served, rendered = self.chat.encode(new), True
            self.fork = error.reason if isinstance(error, Fork) else None
        self._rendered = rendered
        return self.served

    def sample(self, text: str, message: dict[str, Any], end: str | None = None) -> None:
        """Have the model answer the prompt that was served."""
        sampled = self.chat.encode(text + (self.chat.family.end if end is None else end))
        self.messages.append({"role": "assistant"} | message)
        self.turn = RecordedTurn(
            length=len(self.messages), prompt_ids=self.served, sampled_ids=sampled, is_rendered=self._rendered
        )

    def say(self, text: str, **how: Any) -> None:
        self.sample(self.chat.family.lead + text, {"content": text}, **how)

    def call(self, arguments: str, id_: str = "abcdefghi", **extra: Any) -> None:
        assert self.chat.family.tool_call is not None
        function = {"name": "price", "arguments": json.dumps(json.loads(arguments))}
        called = {"id": id_, "type": "function", "function": function}
        self.sample(
            self.chat.family.tool_call("price", arguments, id_), {"content": None, "tool_calls": [called]} | extra
        )

    def answered(self, text: str = "12", id_: str = "abcdefghi") -> None:
        self.messages.append({"role": "tool", "tool_call_id": id_, "content": text})

    @property
    def recorded(self) -> list[int]:
        assert self.turn is not None
        return [*self.turn.prompt_ids, *self.turn.sampled_ids]


def tool_loop(name: str, arguments: str) -> Play:
    play = Play(name, SYSTEM, user("How much is the harp?"))
    play.serve()
    play.call(arguments)
    play.answered()
    return play


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_a_turn_spelled_as_the_template_spells_it_gives_the_prompt_of_a_plain_render(name: str) -> None:
    play = tool_loop(name, '{"of": "a harp"}')
    recorded = play.recorded
    served = play.serve()

    assert play.fork is None
    assert served[: len(recorded)] == recorded
    if name != "qwen3-no-thinking":
        assert served == play.chat.encode(play.chat(play.messages, generation=True))


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_a_turn_that_the_model_spelled_otherwise_stays_as_it_was_sampled(name: str) -> None:
    arguments = '{ "of":"a harp" }'
    play = tool_loop(name, arguments)
    plain = play.chat(play.messages, generation=True)
    recorded, before = play.recorded, play.chat(play.messages[:2], generation=True)
    served = play.serve()

    assert play.fork is None
    assert served[: len(recorded)] == recorded
    text = play.chat.decode(served)
    assert text != plain
    # Respelled, it is the plain render; an empty thought in front is the template's own.
    assert text.replace(arguments, '{"of": "a harp"}').replace("<think>\n\n</think>\n\n", "") == plain.replace(
        "<think>\n\n</think>\n\n", ""
    )
    assert text.startswith(before)


@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_a_long_tool_loop_is_one_sequence(name: str) -> None:
    play = tool_loop(name, '{"of":"a harp"}')
    for arguments in ('{"of": "a lute"}', '{ "of": "é"}'):
        recorded = play.recorded
        assert play.serve()[: len(recorded)] == recorded
        assert play.fork is None
        play.call(arguments)
        play.answered("no\n\nprice ")
    recorded = play.recorded

    assert play.serve()[: len(recorded)] == recorded
    assert play.chat.decode(play.served).startswith(play.chat.decode(recorded))


# Mistral's older template moves the system's words to the newest question.
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_new_question_goes_on_where_the_template_keeps_what_was_said(name: str) -> None:
    play = Play(name, SYSTEM, user("How much?"))
    play.serve()
    play.say("12 euro.")
    play.messages.append(user("And the lute?"))
    recorded, plain = play.recorded, play.chat.encode(play.chat(play.messages, generation=True))
    served = play.serve()

    if name == "mistral":
        assert (play.fork, served) == ("template_rewrites", plain)
    else:
        assert play.fork is None
        assert served[: len(recorded)] == recorded
        assert served == plain or name in ("qwen3-no-thinking", "forgetful")


def test_thoughts_are_kept_within_a_tool_loop_and_a_new_question_forks() -> None:
    play = Play("qwen3", user("How much?"))
    play.serve()
    call = {"id": "c", "type": "function", "function": {"name": "price", "arguments": "{}"}}
    text = '<think>\nWell.\n</think>\n\n<tool_call>\n{"name": "price", "arguments": { }}\n</tool_call>'
    play.sample(text, {"content": None, "reasoning": "\nWell.\n", "tool_calls": [call]})
    play.answered()
    recorded = play.recorded
    assert play.serve()[: len(recorded)] == recorded
    play.sample("<think>\nSo.\n</think>\n\n12 euro.", {"content": "<think>\nSo.\n</think>\n\n12 euro."})
    play.messages.append(user("And the lute?"))
    play.serve()

    assert play.fork == "template_rewrites"
    assert "Well." not in play.chat.decode(play.served)


def test_a_thought_that_the_template_drops_at_once_forks() -> None:
    play = Play("forgetful", user("How much?"))
    play.serve()
    play.sample("Well.\n</think>12 euro.", {"content": "Well.\n</think>12 euro."})
    play.messages.append(user("And the lute?"))
    play.serve()

    assert play.fork == "template_rewrites"


def test_a_turn_cut_by_a_length_limit_is_closed_as_the_template_closes_it() -> None:
    play = Play("qwen2.5", SYSTEM, user("How much?"))
    play.serve()
    play.say("12 eu", end="")
    play.messages.append(user("Go on."))
    recorded = play.recorded

    assert play.serve()[: len(recorded)] == recorded
    assert play.chat.decode(play.served) == play.chat(play.messages, generation=True)


@pytest.mark.parametrize(
    ("text", "end"),
    [("12 euro, ", ""), ("12 euro. STOP", ""), ("12 euro.", "<|endoftext|>")],
    ids=["trailing blank", "stop string", "another end"],
)
def test_a_turn_that_ended_otherwise_than_the_template_ends_one_forks(text: str, end: str) -> None:
    play = Play("qwen2.5", SYSTEM, user("How much?"))
    play.serve()
    play.sample(text, {"content": text.removesuffix("STOP").strip()}, end=end)
    play.messages.append(user("Go on."))
    play.serve()

    assert play.fork == "turn_cut"


def test_an_end_that_only_a_later_message_holds_is_no_end() -> None:
    play = Play("qwen2.5", SYSTEM, user("How much?"))
    play.serve()
    play.say("12 euro.", end="<|endoftext|>")
    play.messages.append(user("What is <|endoftext|>?"))
    play.serve()

    assert play.fork == "turn_cut"


def test_a_prompt_that_the_template_did_not_write_forks() -> None:
    play = tool_loop("llama3", '{"of":"a harp"}')
    assert play.turn is not None
    yesterday = play.chat.decode(play.turn.prompt_ids).replace("26 Jul", "25 Jul")
    play.turn = RecordedTurn(
        length=3, prompt_ids=play.chat.encode(yesterday), sampled_ids=play.turn.sampled_ids, is_rendered=True
    )
    play.serve()

    assert play.fork == "template_rewrites"


def test_a_message_that_lost_what_was_said_forks() -> None:
    play = Play("qwen2.5", SYSTEM, user("How much?"))
    play.serve()
    play.sample("12 euro.", {"content": "Ask me later."})
    play.messages.append(user("Go on."))
    play.serve()
    # The message says another thing than the tokens, but the template shows all of it: the tokens are the truth.
    assert play.fork is None

    play = Play("phi", SYSTEM, user("How much?"))
    play.serve()
    play.sample("12 euro.", {"content": "12 euro.", "reasoning": "A secret."})
    play.messages.append(user("Go on."))
    assert play.turn is not None
    play.turn = RecordedTurn(
        length=3,
        prompt_ids=play.turn.prompt_ids,
        sampled_ids=play.chat.encode("A secret. 12 euro.<|end|>"),
        is_rendered=True,
    )
    play.serve()
    assert play.fork == "template_rewrites"


def test_agreement_costs_no_further_render() -> None:
    play = tool_loop("qwen2.5", '{"of": "a harp"}')
    before = play.chat.renders
    play.serve()

    assert play.chat.renders == before + 1


# A tokenizer may normalise text (NFC), which then decodes to other characters than the template wrote.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12).map(
    lambda text: unicodedata.normalize("NFC", text.strip())
)
NONEMPTY = TEXT.map(lambda text: text or "x")
ARGUMENTS = st.tuples(
    st.dictionaries(NONEMPTY, NONEMPTY | st.integers(-9, 99), max_size=2), st.sampled_from(["", " ", "\n"])
).map(lambda made: json.dumps(made[0], ensure_ascii=True, separators=("," + made[1], ":" + made[1])))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), ARGUMENTS),
        st.tuples(st.just("say"), NONEMPTY),
        st.tuples(st.just("think"), NONEMPTY),
        st.tuples(st.just("cut"), NONEMPTY),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FAMILIES)), STEPS, NONEMPTY)
def test_every_prompt_is_rendered_or_starts_with_the_recorded_tokens(
    name: str, steps: list[tuple[str, str]], question: str
) -> None:
    play = Play(name, SYSTEM, user(question))
    play.serve()
    for kind, text in steps:
        if kind == "call" and play.chat.family.tool_call:
            play.call(text)
            play.answered(text)
        else:
            thought = f"<think>\n{text}\n</think>\n\n" if kind == "think" else ""
            play.say(thought + text, **({"end": ""} if kind == "cut" else {}))
            play.messages.append(user(text))
        recorded, plain = play.recorded, play.chat(play.messages, generation=True)
        served = play.serve()

        if play.fork is not None:
            assert served == play.chat.encode(plain)
        else:
            assert served[: len(recorded)] == recorded
            spoken, text_of_all = play.chat.decode(recorded), play.chat.decode(served)
            assert text_of_all.startswith(spoken)
            if name != "phi-3":
                assert plain.endswith(text_of_all[len(spoken) :])
