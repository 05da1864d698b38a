"""An error of woodshed's own fails its rollout, whatever the agent makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import openai
import pytest

from woodshed.capture import Rollout, RolloutFunction, ToolSpan, bind, in_rollout, model_span
from woodshed.capture.own_errors import own_error
from woodshed.capture.sdk_guard import around_any_request, around_sdk_request
from woodshed.engine.client.client import EngineClient
from woodshed.errors import ConfigError, LeakError, PolicyLost, RequestRefused
from woodshed.testing import ScriptedEngine, fail, in_order, say, scripted_rollout
from woodshed.training.rollouts.rollout import run_rollout
from woodshed.types import OpenSession, SealedSession, SessionGrant

BASE_URL = "http://127.0.0.1:1/v1"


def a_rollout(name: str = "r") -> Rollout:
    return Rollout(base_url=BASE_URL, secret=name, rollout_id=name)


def refused(*_: Any) -> Any:
    raise ConfigError("cannot be trained")


async def refused_later(*_: Any) -> Any:
    raise ConfigError("cannot be trained")


async def refused_in_a_stream(*_: Any) -> AsyncIterator[int]:
    yield 1
    raise ConfigError("cannot be trained")


@in_rollout
def plain(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return wrapped(*args)


@in_rollout
def steps(rollout: Rollout, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return (yield partial(wrapped, *args))


@pytest.mark.parametrize("around", [plain, steps], ids=["plain", "generator"])
async def test_an_error_that_leaves_a_hook_fails_the_rollout(around: Callable[..., Any]) -> None:
    for target in (refused, refused_later, refused_in_a_stream):
        rollout = a_rollout()
        with bind(rollout), suppress(ConfigError):
            result = around(target, None, (1,), {})
            if target is refused_later:
                await result
            else:
                async for _ in result:
                    pass

        assert isinstance(rollout.error, ConfigError), target


def test_an_error_that_leaves_a_tool_or_a_model_call_fails_the_rollout() -> None:
    for span in (
        lambda rollout: ToolSpan(rollout, tool_call_id=None, name="look", arguments={}),
        lambda rollout: model_span(rollout, author_model="m"),
    ):
        rollout = a_rollout()
        with suppress(RuntimeError), span(rollout):
            try:
                raise LeakError("first")
            except LeakError as error:
                raise RuntimeError("the tool's own words") from error

        assert str(rollout.error) == "first"


def test_the_first_error_stays() -> None:
    rollout = a_rollout()
    rollout.fail(LeakError("first"))
    rollout.fail(LeakError("second"))

    assert str(rollout.error) == "first"


def test_an_own_error_is_found_in_groups_and_causes_and_nowhere_else() -> None:
    group = ExceptionGroup("many", [ValueError("a"), ExceptionGroup("inner", [ConfigError("b")])])

    assert str(own_error(group)) == "b"
    assert own_error(ValueError("x")) is None


def client(secret: str, base_url: str = BASE_URL) -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=secret)


class Options:
    url = "/chat/completions"


def test_a_client_that_carries_another_rollouts_secret_is_stopped() -> None:
    rollout, sent = a_rollout("B"), []
    with bind(rollout):
        around_any_request(lambda *a: sent.append("own"), client("B"), (None, Options()), {})
        with pytest.raises(LeakError, match="another rollout's secret"):
            around_any_request(lambda *a: sent.append("other"), client("A"), (None, Options()), {})

    assert sent == ["own"]
    assert isinstance(rollout.error, LeakError)


def test_a_call_past_the_framework_fails_the_rollout() -> None:
    rollout = a_rollout()
    with bind(rollout), pytest.raises(LeakError, match="instead of the policy"):
        around_sdk_request(lambda *a: None, client("key", "http://127.0.0.1:2/v1"), (None, Options()), {})

    assert isinstance(rollout.error, LeakError)


class Sessions(EngineClient):
    """An engine whose sessions hold no calls."""

    def __init__(self) -> None:
        pass

    async def open_session(self, request: OpenSession) -> SessionGrant:
        return SessionGrant(rollout_id=request.rollout_id, secret="s", base_url=BASE_URL)

    async def seal(self, rollout_id: str) -> SealedSession:
        return SealedSession(rollout_id=rollout_id, calls=())


async def test_a_rollout_whose_agent_swallowed_an_own_error_is_failed_by_it() -> None:
    async def agent(_: Any) -> str:
        with suppress(ConfigError):
            plain(refused, None, (1,), {})
        return "all is well"

    made = await run_rollout(
        RolloutFunction(agent), "q", scenario_id="s", client=Sessions(), policy="policy", sampling={}, timeout_s=30.0
    )

    assert made.status == "failed"
    assert made.error is not None and (made.error.kind, made.error.message) == ("ConfigError", "cannot be trained")


MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "request_refused", RequestRefused),
        (413, "request_too_large", RequestRefused),
        (409, "policy_lost", PolicyLost),
    ],
)
async def test_a_refusal_of_the_gateways_own_fails_the_rollout_of_any_client(
    status: int, code: str, kind: type[Exception], stream: bool
) -> None:
    """To the agent it is an error of the OpenAI SDK like any other, and may become a tool's result."""
    with ScriptedEngine(lambda request: fail(status, code=code)) as engine:
        for is_async in (False, True):
            with scripted_rollout(engine) as rollout, suppress(openai.APIStatusError):
                options: Any = {"base_url": rollout.base_url, "api_key": rollout.secret, "max_retries": 0}
                if is_async:
                    async with openai.AsyncOpenAI(**options) as later:
                        await later.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
                else:
                    with openai.OpenAI(**options) as now:
                        now.chat.completions.create(model="m", messages=MESSAGES, stream=stream)

            assert type(rollout.error) is kind
            assert str(rollout.error) == f"scripted status {status}"


@pytest.mark.parametrize(("status", "code"), [(400, None), (400, "context_length_exceeded"), (503, "EngineError")])
def test_what_the_agent_can_mend_or_try_again_is_left_to_it(status: int, code: str | None) -> None:
    with (
        ScriptedEngine(in_order(fail(status, code=code), say("at last"))) as engine,
        scripted_rollout(engine) as rollout,
        openai.OpenAI(base_url=rollout.base_url, api_key=rollout.secret, max_retries=0) as own,
    ):
        with pytest.raises(openai.APIStatusError):
            own.chat.completions.create(model="m", messages=MESSAGES)
        own.chat.completions.create(model="m", messages=MESSAGES)

        assert rollout.error is None
