"""How many of the sampled tokens that came back stood where they were."""

from __future__ import annotations

from typing import Any

from woodshed.tokens import PrefixReuse, measure_prefix_reuse
from woodshed.types import Completion, Failure, Message, TokenCall

ASKED = Message(role="user", content="How much?")


def answer(text: str) -> Message:
    return Message(role="assistant", content=text)


def call(started_s: int, messages: tuple[Message, ...], prompt: tuple[int, ...], *said: str, **extra: Any) -> TokenCall:
    """Return a call that sampled three tokens for each answer: 100, and its start and place."""
    completions = tuple(
        Completion(
            index=index,
            message=answer(text),
            token_ids=(100, started_s, index),
            logprobs=(-1.0,) * 3,
            weight_versions=(0,) * 3,
        )
        for index, text in enumerate(said)
    )
    told = {"call_id": f"call-{started_s}", "started_s": float(started_s), "latency_s": 0.0}
    return TokenCall(messages=messages, prompt_ids=prompt, completions=completions, **told, **extra)


FIRST = call(1, (ASKED,), (1,), "12.", "13.")
AGAIN = (ASKED, answer(" 12. "), ASKED)


def test_nothing_that_came_back_is_a_ratio_of_one() -> None:
    assert measure_prefix_reuse([]) == PrefixReuse()
    assert measure_prefix_reuse([FIRST, call(2, (ASKED, ASKED), (2,), "no")]).ratio == 1.0


def test_a_turn_that_came_back_token_for_token_is_continued() -> None:
    found = measure_prefix_reuse([call(2, AGAIN, (1, 100, 1, 0, 5), "so"), FIRST])

    assert (found.resent, found.continued, found.ratio, found.forks) == (3, 3, 1.0, {})


def test_a_turn_that_was_rendered_anew_is_not_and_its_reason_is_counted() -> None:
    found = measure_prefix_reuse([FIRST, call(2, AGAIN, (1, 100, 7, 5), "so", fork="template_rewrites")])

    assert (found.resent, found.continued, found.ratio) == (3, 0, 0.0)
    assert found.forks == {"template_rewrites": 1}


def test_a_turn_counts_once_and_is_continued_only_where_each_call_holds_it() -> None:
    held, lost = call(2, AGAIN, (1, 100, 1, 0), "a"), call(3, AGAIN, (1, 8), "b", fork="turn_cut")

    assert measure_prefix_reuse([FIRST, held, held.model_copy(update={"call_id": "x"})]).resent == 3
    assert measure_prefix_reuse([FIRST, held, lost]).continued == 0


def test_only_the_last_turn_of_a_conversation_is_what_a_call_sends_back() -> None:
    second = call(2, AGAIN, (1, 100, 1, 0, 5), "so")
    third = call(3, (*AGAIN, answer("so"), ASKED), (*second.prompt_ids, 100, 2, 0, 6), "end")

    assert measure_prefix_reuse([FIRST, second, third]) == PrefixReuse(resent=6, continued=6)


def test_the_choice_that_a_prompt_holds_is_the_one_that_came_back() -> None:
    twice = call(1, (ASKED,), (1,), "12.", "12.")

    assert measure_prefix_reuse([twice, call(2, AGAIN, (1, 100, 1, 0), "a")]).ratio == 1.0
    assert measure_prefix_reuse([twice, call(2, AGAIN, (1, 100, 1, 1), "a")]).ratio == 1.0


def test_rollouts_add_up() -> None:
    one = PrefixReuse(resent=3, continued=1, forks={"turn_cut": 1})
    two = PrefixReuse(resent=1, continued=1, forks={"turn_cut": 1, "not_exact": 2})

    assert one + two == PrefixReuse(resent=4, continued=2, forks={"turn_cut": 2, "not_exact": 2})
    assert (one + two).ratio == 0.5


def test_a_call_that_was_refused_before_it_had_a_prompt_counts_for_nothing() -> None:
    refused = call(2, AGAIN, (), error=Failure(kind="BadRequest", message="the context is full", cause="overflow"))

    assert measure_prefix_reuse([FIRST, refused]) == PrefixReuse()
    assert measure_prefix_reuse([FIRST, refused, call(3, AGAIN, (1, 100, 1, 0, 5), "so")]).ratio == 1.0
