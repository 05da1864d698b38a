"""The contract's engine: woodshed's own gateway, and behind it a model server that says what vLLM would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from woodshed.testing import call_tool, call_tools, fail, hang, in_order, say, scripted_rollout
from woodshed.testing.conformance.engine import GatewayEngine, unscripted
from woodshed.testing.conformance.truth import assert_faithful, text
from woodshed.testing.conformance.upstream import ScriptedVllm, strip_thoughts
from woodshed.testing.waiting import eventually
from woodshed.types import Message, ToolRequest

OpenClient = Callable[..., openai.OpenAI]
LOOK: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ASK: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def running(needs_engine: None) -> Iterator[GatewayEngine]:
    engine = GatewayEngine(None).start()
    yield engine
    engine.close()


@pytest.fixture
def engine(running: GatewayEngine) -> GatewayEngine:
    running.vllm.play(unscripted)
    return running


@pytest.fixture
def vllm() -> Iterator[ScriptedVllm]:
    server = ScriptedVllm(lambda request: say("hello there")).start()
    yield server
    server.close()


def test_an_answer_carries_tokens_only_where_they_are_asked_for(vllm: ScriptedVllm, client: OpenClient) -> None:
    chat = client(vllm.base_url).chat.completions
    plain = chat.create(model="m", messages=ASK)
    told = chat.create(model="m", messages=ASK, logprobs=True, extra_body={"return_token_ids": True})

    extra, choice = told.model_extra or {}, told.choices[0]
    assert (plain.choices[0].logprobs, (plain.model_extra or {})["prompt_token_ids"]) == (None, None)
    assert text(extra["prompt_token_ids"]) == "<user>hi|<assistant>"
    assert text((choice.model_extra or {})["token_ids"]) == "hello there|"
    assert choice.logprobs is not None and len(choice.logprobs.content or []) == len("hello there|")


def test_a_stream_carries_each_token_once(vllm: ScriptedVllm, client: OpenClient) -> None:
    vllm.script = in_order(call_tools(ToolRequest(id="c", name="look", arguments='{"a": 1}'), content="Let me see."))
    chunks = list(
        client(vllm.base_url).chat.completions.create(
            model="m", messages=ASK, stream=True, logprobs=True, extra_body={"return_token_ids": True}
        )
    )

    ids = [t for c in chunks for choice in c.choices for t in (choice.model_extra or {}).get("token_ids") or ()]
    logprobs = [t for c in chunks for o in c.choices if o.logprobs is not None for t in o.logprobs.content or ()]
    assert text(ids) == 'Let me see.\nlook({"a": 1})|'
    assert len(logprobs) == len(ids)
    assert [
        text((c.model_extra or {})["prompt_token_ids"]) for c in chunks if "prompt_token_ids" in (c.model_extra or {})
    ]


def test_other_weights_give_other_logprobs_and_name_their_version(vllm: ScriptedVllm, client: OpenClient) -> None:
    for model in ("policy", "policy@3"):
        client(vllm.base_url).chat.completions.create(model=model, messages=ASK)

    before, after = (served.call.completions[0] for served in vllm.served)
    assert (set(before.weight_versions), set(after.weight_versions)) == ({0}, {3})
    assert before.token_ids == after.token_ids
    assert before.logprobs != after.logprobs


def test_a_template_that_strips_thinking_strips_it_of_earlier_turns() -> None:
    said = [Message(role="assistant", content="<think>so</think>yes"), Message(role="user", content="<think>I</think>")]

    assert [m.content for m in strip_thoughts(said)] == ["yes", "<think>I</think>"]


def test_the_engine_records_what_the_model_server_sampled(engine: GatewayEngine, client: OpenClient) -> None:
    engine.script = in_order(call_tool("look", id="c1", item="x"), say("done"))
    with scripted_rollout(engine) as rollout:
        chat = client(rollout.base_url, rollout.secret).chat.completions
        first = chat.create(model="any", messages=ASK).choices[0].message
        asked: Any = first.model_dump(exclude_none=True)
        answer: Any = {"role": "tool", "tool_call_id": "c1", "content": "7"}
        list(chat.create(model="any", messages=[*ASK, asked, answer], stream=True))

    (row,) = assert_faithful(engine.trajectory(rollout), engine.requests)
    assert text(row.token_ids) == '<user>hi|<assistant>\nlook({"item": "x"})|<tool>7|<assistant>done|'


def test_a_trajectory_that_differs_from_what_was_sampled_is_noticed(engine: GatewayEngine, client: OpenClient) -> None:
    engine.script = in_order(say("yes"))
    with scripted_rollout(engine) as rollout:
        client(rollout.base_url, rollout.secret).chat.completions.create(model="any", messages=ASK)
    whole = engine.trajectory(rollout).model_dump_json()

    for found, changed in (('"token_ids":[121,', '"token_ids":[122,'), ('"prompt_ids":[60,', '"prompt_ids":[61,')):
        assert found in whole
        with pytest.raises(AssertionError, match="never served"):
            assert_faithful(
                type(engine.trajectory(rollout)).model_validate_json(whole.replace(found, changed)), engine.requests
            )


def test_a_sealed_session_is_refused_by_the_gateway(engine: GatewayEngine, client: OpenClient) -> None:
    with scripted_rollout(engine) as rollout:
        pass
    with pytest.raises(openai.ConflictError, match="sealed"):
        client(rollout.base_url, rollout.secret).chat.completions.create(model="any", messages=ASK)

    assert (engine.seal(rollout.rollout_id).late_calls, engine.vllm.asked) == (1, [])


def test_an_upstream_that_fails_is_a_502_at_once_and_a_refusal_is_passed_on(
    engine: GatewayEngine, client: OpenClient
) -> None:
    engine.script = in_order(fail(500), fail(500), fail(400))
    with scripted_rollout(engine) as rollout:
        chat = client(rollout.base_url, rollout.secret).chat.completions
        with pytest.raises(openai.InternalServerError) as failed:
            chat.create(model="any", messages=ASK)
        with pytest.raises(openai.BadRequestError, match="scripted status 400"):
            chat.create(model="any", messages=ASK)

    assert failed.value.status_code == 502
    kinds = [call.tokens.error.kind for call in engine.trajectory(rollout).calls if call.tokens.error]
    assert kinds == ["UpstreamError", "BadRequestError"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
@pytest.mark.parametrize("arguments", ['"the shelf"', "[1]", "null", '{"item": "x"', ""])
def test_a_demanded_call_without_arguments_is_a_502_and_nothing_of_it_is_passed_on(
    engine: GatewayEngine, client: OpenClient, arguments: str, choice: Any, stream: bool
) -> None:
    engine.script = in_order(call_tools(ToolRequest(id="c", name="look", arguments=arguments)), say("unasked"))
    with scripted_rollout(engine) as rollout:
        chat = client(rollout.base_url, rollout.secret).chat.completions
        with pytest.raises(openai.InternalServerError, match=r"demanded a call.*expected a JSON object") as got:
            list(chat.create(model="any", messages=ASK, tools=LOOK, tool_choice=choice, stream=stream))

    (call,) = engine.trajectory(rollout).calls
    assert got.value.status_code == 502
    assert call.tokens.error is not None and call.tokens.error.kind == "BrokenCall"
    assert len(engine.vllm.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("choice", "arguments"), [("required", '{"item": "x"}'), ("auto", '"the shelf"')])
def test_a_demanded_call_with_an_object_and_any_that_the_model_chose_to_make_are_passed_on(
    engine: GatewayEngine, client: OpenClient, choice: Any, arguments: str, stream: bool
) -> None:
    engine.script = in_order(call_tools(ToolRequest(id="c", name="look", arguments=arguments)))
    with scripted_rollout(engine) as rollout:
        chat = client(rollout.base_url, rollout.secret).chat.completions
        answer: Any = chat.create(model="any", messages=ASK, tools=LOOK, tool_choice=choice, stream=stream)
        parts = [c.choices[0].delta for c in answer] if stream else [answer.choices[0].message]

    assert "".join(t.function.arguments for part in parts for t in part.tool_calls or ()) == arguments


def test_a_retry_that_names_no_call_takes_over_its_own_and_no_other_with_the_same_prompt(
    engine: GatewayEngine, client: OpenClient
) -> None:
    answers = iter([hang(), say("late", delay_s=3.0), say("again"), say("lost"), say("another")])
    engine.script = lambda request: next(answers)
    with scripted_rollout(engine) as rollout, ThreadPoolExecutor(2) as pool:

        def ask(timeout_s: float, max_retries: int = 0, **headers: str) -> str | None:
            agent = client(rollout.base_url, rollout.secret, max_retries=max_retries)
            with agent.with_options(timeout=timeout_s) as chat:
                answer = chat.chat.completions.create(model="any", messages=ASK, extra_headers=headers)
            return answer.choices[0].message.content

        impatient = pool.submit(ask, 1.0, 1)
        asyncio.run(eventually(lambda: engine.vllm.asked, "the impatient call has arrived", every_s=0.01))
        target = pool.submit(ask, 60.0)
        answered = [impatient.result(), target.result(), ask(60.0), ask(60.0, **{"x-stainless-retry-count": "1"})]

    assert answered == ["again", "late", "lost", "another"]
    calls = [call.tokens for call in engine.trajectory(rollout).calls]
    assert [(c.completions[0].message.content, c.retries) for c in calls] == [
        ("late", 0), ("again", 1), ("lost", 0), ("another", 1),
    ]  # fmt: skip
    assert len({c.call_id for c in calls}) == 4


def test_an_engine_without_a_script_says_so(engine: GatewayEngine, client: OpenClient) -> None:
    with scripted_rollout(engine) as rollout, pytest.raises(openai.BadRequestError, match="no script yet"):
        client(rollout.base_url, rollout.secret).chat.completions.create(model="any", messages=ASK)


def test_a_closed_engine_leaves_no_process_and_no_folder(running: GatewayEngine) -> None:
    engine = GatewayEngine(None).start()
    home, process = engine.home, engine._process
    assert json.loads((home / "engine.json").read_text())["parent_pid"]
    engine.close()

    assert process is not None and process.returncode is not None
    assert not Path(home).exists()
