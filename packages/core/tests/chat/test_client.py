"""A judge's server fails in many ways: what passes is tried again, what stays names the judge and the next step."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
from loopback_judge import LoopbackJudge, Reply, Request, fails, says

from woodshed.chat.client import ChatClient
from woodshed.chat.model import Question
from woodshed.errors import ConfigError, JudgeError
from woodshed.rewards.judge import Judge

QUESTION = Question(system="grade", user="these", schema={"type": "object"})
AT_ONCE = (("retry-after", "0"),)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a tenth of what a real server would be given; what the server itself asks for is unchanged."""
    monkeypatch.setattr("woodshed.chat.retry._FIRST_WAIT_S", 0.02)


@pytest.mark.parametrize(
    "passing",
    [
        fails(429, headers=AT_ONCE),
        fails(429),
        fails(408),
        fails(500),
        fails(503, headers=(("retry-after", "soon"),)),
        Reply(closes=True),
        Reply(body=b"<html>hold on</html>"),
        Reply(body=b""),
        Reply(body={"error": {"message": "upstream"}}),
        says("late", hangs_s=30.0),
    ],
    ids=["429 now", "429", "408", "500", "503", "closed", "HTML", "empty", "error in 200", "hang"],
)
async def test_what_passes_is_tried_again(server: LoopbackJudge, passing: Reply) -> None:
    server.script = [passing, says("here")]

    answer = await ChatClient(server.judge(timeout_s=1 if passing.hangs_s else 30)).ask(QUESTION)

    assert answer.text == "here"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("lasting", "requests", "said"),
    [
        (fails(429, "slow down", headers=AT_ONCE), 3, r"answered 429 in 3 tries: .*slow down.*Lower Judge\(max_conc"),
        (fails(500, "CUDA error"), 3, "answered 500 in 3 tries: .*CUDA error.*its log says why"),
        (Reply(closes=True), 3, "could not be reached in 3 tries: .*is it running there"),
        (says("late", hangs_s=30.0), 3, r"no answer within 1 s in 3 tries; raise Judge\(timeout_s=...\)"),
        (Reply(body=b"<html>"), 3, "no chat completion in 3 tries.*is base_url right"),
        (Reply(body={"error": {"message": "upstream"}}), 3, "no chat completion in 3 tries.*upstream"),
        (fails(401, "bad key"), 1, "answered 401: .*bad key.*Check OPENAI_API_KEY"),
        (fails(404, "no such model"), 1, "answered 404: .*Check the model's name"),
        (fails(400, "context is too long"), 1, "answered 400: .*context is too long"),
        (fails(429, "pay", code="insufficient_quota"), 1, "answered 429: .*no credit left"),
    ],
    ids=["429", "500", "closed", "hang", "HTML", "error in 200", "401", "404", "400", "no credit"],
)
async def test_what_stays_is_an_error_that_says_what_to_do(
    server: LoopbackJudge, lasting: Reply, requests: int, said: str
) -> None:
    server.script = [lasting]

    with pytest.raises(JudgeError, match=said) as raised:
        await ChatClient(server.judge(timeout_s=1 if lasting.hangs_s else 30, max_retries=2)).ask(QUESTION)

    assert f"judge 'loopback' at {server.base_url}" in str(raised.value)
    assert len(server.requests) == requests


async def test_nobody_there_is_said() -> None:
    judge = Judge("loopback", base_url="http://127.0.0.1:9/v1", max_retries=0)

    with pytest.raises(JudgeError, match=r"at http://127\.0\.0\.1:9/v1 could not be reached"):
        await ChatClient(judge).ask(QUESTION)


async def test_the_server_says_how_long_to_wait(server: LoopbackJudge) -> None:
    server.script = [fails(429, headers=(("retry-after", "0.3"),)), says("here")]
    started = time.perf_counter()

    await ChatClient(server.judge()).ask(QUESTION)

    assert time.perf_counter() - started >= 0.3


def form(request: Request) -> str:
    return str(request.get("response_format", {"type": "none"})["type"])


async def test_the_form_is_asked_for_as_the_server_can_and_that_is_remembered(server: LoopbackJudge) -> None:
    server.script = [
        fails(400, "'response_format.type' must be 'text' or 'json_object'", param="response_format"),
        fails(400, "This model does not support response_format", param="response_format"),
        says("here"),
    ]
    judge = ChatClient(server.judge())

    await judge.ask(QUESTION)
    await judge.ask(QUESTION)

    assert [form(r) for r in server.requests] == ["json_schema", "json_object", "none", "none"]
    assert server.requests[0]["response_format"]["json_schema"] == {
        "name": "answer", "strict": True, "schema": {"type": "object"},
    }  # fmt: skip


REFUSALS = {
    "OpenAI": fails(400, "Invalid schema for response_format 'answer': In context=(), 'minimum' is not permitted."),
    "Gemini, complex": fails(400, "The specified schema produces a constraint that has too many states for serving."),
    "Gemini": fails(400, "Request contains an invalid argument.", code="INVALID_ARGUMENT"),
    "Gemini, as a list": Reply(status=400, body=[{"error": {"code": 400, "message": "Request contains an invalid"}}]),
    "Groq": fails(400, "Failed to generate JSON. Please adjust your prompt.", code="json_validate_failed"),
    "Anthropic": fails(400, "output_format: Extra inputs are not permitted", type="invalid_request_error"),
    "vLLM": fails(400, "Grammar error: Invalid grammar specification", type="BadRequestError"),
    "Bedrock": Reply(status=400, body={"__type": "ValidationException", "message": "malformed input request"}),
    "Mistral": Reply(status=422, body={"detail": [{"loc": ["body", "response_format"], "msg": "Field required"}]}),
    "OpenRouter": fails(404, "No endpoints found that support response_format json_schema"),
    "OpenRouter, in 200": Reply(body={"error": {"message": "provider: response_format is not supported"}}),
    "llama.cpp": fails(500, "failed to parse grammar"),
    "no words": Reply(status=400, body=b""),
}
"""How servers refuse an output format."""


@pytest.mark.parametrize("refusals", [1, 2])
@pytest.mark.parametrize("server_of", REFUSALS)
async def test_any_refusal_of_the_form_is_asked_again_in_a_looser_one_and_paid_once(
    server: LoopbackJudge, server_of: str, refusals: int, caplog: pytest.LogCaptureFixture
) -> None:
    forms = ["json_schema", "json_object", "none"]

    server.script = [REFUSALS[server_of]] * refusals + [says("here")]
    judge = ChatClient(server.judge(max_retries=0))

    assert [(await judge.ask(QUESTION)).text for _ in range(3)] == ["here"] * 3
    assert [form(r) for r in server.requests] == [*forms[:refusals], *[forms[refusals]] * 3]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "woodshed.chat"]
    assert f"structured='{forms[refusals]}'" in said


async def test_what_no_form_helps_against_is_an_error_and_changes_no_form(server: LoopbackJudge) -> None:
    server.script = [*[fails(400, "Request contains an invalid argument.")] * 3, says("here")]
    judge = ChatClient(server.judge())

    with pytest.raises(JudgeError, match=r"answered 400: .*invalid argument"):
        await judge.ask(QUESTION)
    await judge.ask(QUESTION)

    assert [form(r) for r in server.requests] == ["json_schema", "json_object", "none", "json_schema"]


@pytest.mark.parametrize("about", ["context length exceeded", "API key not valid. Please pass a valid API key."])
async def test_a_400_about_something_else_is_not_asked_again(server: LoopbackJudge, about: str) -> None:
    server.script = [fails(400, about)]

    with pytest.raises(JudgeError, match="answered 400"):
        await ChatClient(server.judge()).ask(QUESTION)

    assert len(server.requests) == 1


DRAFT, VERDICT = '{"scores": "draft"}', '{"scores": "verdict"}'


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "thinking", "thinking": DRAFT}, {"type": "text", "text": VERDICT}]}, VERDICT),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]},
                         {"type": "text", "text": VERDICT}]},
            VERDICT,
        ),
        ({"content": [{"type": "reasoning", "text": DRAFT}, {"type": "output_text", "text": VERDICT}]}, VERDICT),
        ({"content": [{"type": "text", "text": DRAFT, "thought": True}, {"type": "text", "text": VERDICT}]}, VERDICT),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, {"text": VERDICT}]}, VERDICT),
        ({"content": [{"type": "text", "text": {"value": VERDICT}}]}, VERDICT),
        ({"content": [VERDICT[:5], VERDICT[5:]]}, VERDICT),
        ({"content": VERDICT, "reasoning_content": DRAFT, "reasoning": DRAFT}, VERDICT),
        ({"content": None, "reasoning_content": DRAFT}, ""),
        ({"content": [{"type": "thinking", "thinking": DRAFT}]}, ""),
        ({"content": {"scores": "verdict"}}, VERDICT),
    ],
)  # fmt: skip
async def test_what_a_model_thinks_is_not_its_answer(server: LoopbackJudge, message: Request, text: str) -> None:
    server.script = [completion(message)]

    answer = await ChatClient(server.judge()).ask(QUESTION)

    assert (answer.text, answer.is_refusal) == (text, False)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I can't."},
        {"content": [{"type": "refusal", "refusal": "I can't."}]},
        {"content": [{"type": "thinking", "thinking": DRAFT}, {"type": "refusal", "refusal": "I can't."}]},
    ],
)
async def test_a_refusal_is_one_in_any_shape(server: LoopbackJudge, message: Request) -> None:
    server.script = [completion(message)]

    answer = await ChatClient(server.judge()).ask(QUESTION)

    assert (answer.text, answer.is_refusal) == ("I can't.", True)


def completion(message: Request) -> Reply:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return Reply(body={"id": "c", "object": "chat.completion", "created": 0, "model": "loopback", "choices": [choice]})


@pytest.mark.parametrize("structured", ["json_schema", "json_object", "none"])
async def test_a_form_that_the_user_names_is_kept(server: LoopbackJudge, structured: str) -> None:
    server.script = [fails(400, "response_format is not supported")]

    with pytest.raises(JudgeError, match="answered 400"):
        await ChatClient(server.judge(structured=structured)).ask(QUESTION)

    assert [form(r) for r in server.requests] == [structured]


async def test_a_reasoning_model_is_asked_without_what_it_refuses(server: LoopbackJudge) -> None:
    def picky(request: Request) -> Any:
        assert set(request) == {"model", "messages", "response_format", "max_completion_tokens"}
        return "here"

    server.script = [
        fails(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
        fails(400, "Unsupported value: 'temperature' does not support 0 with this model."),
        says(picky),
    ]

    answer = await ChatClient(server.judge(max_tokens=300)).ask(QUESTION)

    assert answer.text == "here"
    assert server.requests[0]["max_tokens"] == server.requests[2]["max_completion_tokens"] == 300
    assert server.requests[0]["temperature"] == 0.0


async def test_a_reply_without_usage_has_no_known_cost(server: LoopbackJudge) -> None:
    server.script = [says("here", usage=None)]

    answer = await ChatClient(server.judge(prompt_usd_per_million=1, completion_usd_per_million=1)).ask(QUESTION)

    assert (answer.prompt_tokens, answer.cost_usd) == (0, None)


SECRET = "sk-very-secret-0123456789"


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_the_key_is_sent_and_shown_nowhere(
    server: LoopbackJudge, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Servers like to repeat the key in their errors."""
    caplog.set_level(logging.DEBUG)
    judge = server.judge(api_key=SECRET, max_retries=0)
    server.script = [says("here") if status == 200 else fails(status, f"wrong key {SECRET}, temperature")]

    shown = repr(judge) + repr(ChatClient(judge))
    try:
        shown += repr(await ChatClient(judge).ask(QUESTION))
    except JudgeError as error:
        shown += str(error) + repr(error)
    shown += "".join(r.getMessage() for r in caplog.records if r.name.startswith("woodshed"))

    assert f"Bearer {SECRET}" in server.keys
    assert SECRET not in shown
    assert status == 200 or "***" in shown


async def test_openais_key_comes_from_the_environment(server: LoopbackJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    server.script = [says("here")]

    await ChatClient(Judge("gpt-5-mini")).ask(QUESTION)
    await ChatClient(Judge("engine/judge").bound(base_url=server.base_url, api_key="")).ask(QUESTION)

    assert server.keys == [f"Bearer {SECRET}", "Bearer none"]


def test_no_key_is_said_before_any_rollout_is_paid() -> None:
    with pytest.raises(ConfigError, match="'gpt-5-mini' needs a key and OPENAI_API_KEY is not set"):
        Judge("gpt-5-mini").key()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"max_retries": -1}, "max_retries is -1"),
        ({"max_concurrency": 0}, "max_concurrency is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"structured": "yaml"}, "structured is 'yaml'"),
        ({"prompt_usd_per_million": 1.0}, "one price of two"),
        ({"base_url": "localhost:8000"}, "base_url is 'localhost:8000'"),
        ({"base_url": "http://["}, r"base_url is 'http://\['"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Judge("m", **settings)


def test_a_secret_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        Judge("m", base_url=f"http://me:{SECRET}@host/v1")

    assert SECRET not in str(raised.value)


def test_a_model_on_the_engine_may_take_longer_for_a_reply_than_one_elsewhere() -> None:
    assert Judge("engine/judge").longest_wait_s > Judge("m").longest_wait_s
    assert Judge("engine/judge", timeout_s=5).longest_wait_s == Judge("m", timeout_s=5).longest_wait_s == 5
