"""A call that goes on from a sampled turn gets that turn's own tokens, whatever the client makes of the message."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from shop import SYSTEM, TOOLS, RunningEngine, Session

from woodshed.tokens import build_rows, measure_prefix_reuse

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

OPENING = [SYSTEM, {"role": "user", "content": "Is the Harp still in stock?"}]


async def first_turn(session: Session, **extra: Any) -> list[dict[str, Any]]:
    """Have a tool called, and return the conversation with the call as a framework sends it back, and its result."""
    answer = await session.ask(tools=TOOLS, **extra)
    message = answer.choices[-1].message
    assert message.tool_calls, message
    # As frameworks do: no content becomes an empty one, and arguments are written anew.
    calls = [call.model_dump() for call in message.tool_calls]
    for call in calls:
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), indent=1)
    results = [{"role": "tool", "tool_call_id": call["id"], "content": '{"left": 3}'} for call in calls]
    return [*OPENING, {"role": "assistant", "content": message.content or "", "tool_calls": calls}, *results]


async def test_the_second_prompt_is_the_first_and_what_was_sampled_and_the_answer_is_a_plain_calls(
    engine: RunningEngine,
) -> None:
    how = {"temperature": 1.0, "seed": 11, "max_tokens": 24}
    async with engine.session() as session:
        messages = await first_turn(session, temperature=0.01, seed=1)
        answer = await session.ask(messages=messages, tools=TOOLS, **how)
        one, two = (await session.seal()).calls
    async with httpx.AsyncClient(timeout=60) as http:
        body = {"model": "policy", "messages": messages, "tools": TOOLS, "return_token_ids": True} | how
        vllm = engine.server()
        url, headers = f"{vllm['url']}/v1/chat/completions", {"authorization": f"Bearer {vllm['key']}"}
        plain = (await http.post(url, json=body, headers=headers)).json()

    sampled = one.completions[0].token_ids
    assert two.prompt_ids[: len(one.prompt_ids) + len(sampled)] == one.prompt_ids + sampled
    assert (one.continued_from, one.fork, two.continued_from, two.fork) == (None, None, one.call_id, None)
    assert len(build_rows([one, two])) == 1
    assert measure_prefix_reuse([one, two]).continued == len(sampled)
    # The tiny policy writes its calls as the template does, so a plain render has the same tokens, and the same dice.
    assert list(two.prompt_ids) == plain["prompt_token_ids"]
    assert list(two.completions[0].token_ids) == plain["choices"][0]["token_ids"]
    assert answer.choices[0].message.content == plain["choices"][0]["message"]["content"]


async def test_a_streamed_conversation_goes_on_in_the_same_way(engine: RunningEngine) -> None:
    async with engine.session() as session:
        messages = await first_turn(session, temperature=0.01)
        stream = await session.ask(messages=messages, tools=TOOLS, stream=True)
        said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        again = [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "And the Lute?"}]
        await session.ask(messages=again, tools=TOOLS, stream=True, max_tokens=2)
        calls = (await session.seal()).calls

    assert [call.continued_from for call in calls] == [None, calls[0].call_id, calls[1].call_id]
    assert [call.fork for call in calls] == [None] * 3
    assert len(build_rows(calls)) == 1


async def test_a_conversation_goes_on_from_the_choice_that_the_client_took(engine: RunningEngine) -> None:
    async with engine.session() as session:
        random_digits = {"structured_outputs": {"regex": "[0-9]{24}"}}
        answer = await session.ask(n=2, temperature=2.0, extra_body=random_digits)
        taken = {"role": "assistant", "content": answer.choices[1].message.content}
        await session.ask(messages=[*OPENING, taken, {"role": "user", "content": "Sure?"}], max_tokens=2)
        one, two = (await session.seal()).calls

    assert taken["content"] != answer.choices[0].message.content
    held = one.prompt_ids + one.completions[1].token_ids
    assert (two.continued_from, two.prompt_ids[: len(held)]) == (one.call_id, held)


async def test_edited_history_and_other_tools_are_forks_with_their_reasons(engine: RunningEngine) -> None:
    async with engine.session() as session:
        messages = await first_turn(session, temperature=0.01)
        other = {"role": "user", "content": "Is the Lute still in stock?"}
        await session.ask(messages=[SYSTEM, other, *messages[2:]], tools=TOOLS, max_tokens=2)
        await session.ask(messages=messages, tools=TOOLS[:1], max_tokens=2)
        await session.ask(messages=messages, tools=TOOLS, max_tokens=2, extra_body={"seed": 3})
        await session.ask("Something else?", max_tokens=2)
        calls = (await session.seal()).calls

    assert [call.fork for call in calls] == [None, "history_edited", "options_changed", None, None]
    assert [call.continued_from for call in calls] == [None, None, None, calls[0].call_id, None]
    assert measure_prefix_reuse(calls).forks == {"history_edited": 1, "options_changed": 1}


async def test_a_turn_that_was_spelled_otherwise_stays_as_it_was_sampled(engine: RunningEngine) -> None:
    async with engine.session() as session:
        # A pattern makes the policy write an answer with blanks that messages lose.
        pattern = {"structured_outputs": {"regex": "  Yes, 3\\."}}
        await session.ask(extra_body=pattern)
        taken = {"role": "assistant", "content": "Yes, 3."}
        await session.ask(messages=[*OPENING, taken, {"role": "user", "content": "Sure?"}], max_tokens=2)
        one, two = (await session.seal()).calls

    held = one.prompt_ids + one.completions[0].token_ids
    assert (two.continued_from, two.fork, two.prompt_ids[: len(held)]) == (one.call_id, None, held)


async def test_a_continued_prompt_that_leaves_no_room_is_refused_as_any_other(engine: RunningEngine) -> None:
    async with engine.session() as session:
        messages = await first_turn(session, temperature=0.01)
        messages[-1]["content"] = "price " * 4000
        url, headers = f"{session.grant.base_url}/chat/completions", {"authorization": f"Bearer {session.grant.secret}"}
        async with httpx.AsyncClient(timeout=60) as http:
            body = {"model": "x", "messages": messages, "tools": TOOLS}
            refused = await http.post(url, json=body, headers=headers)
        _, call = (await session.seal()).calls

    assert refused.status_code == 400
    assert call.error is not None
    assert (call.continued_from, call.fork) == (None, None)
