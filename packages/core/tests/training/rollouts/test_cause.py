"""A failed rollout is its agent's failure, unless the infrastructure failed or the conversation grew too long."""

from __future__ import annotations

import httpx
import openai
import pytest

import woodshed
from woodshed.training.rollouts.cause import rollout_failure

REQUEST = httpx.Request("POST", "http://engine/v1/chat/completions")
TOO_LONG = "This model's maximum context length is 256 tokens. However, you requested 300 tokens."


def answered(status: int, message: str = "no") -> openai.APIStatusError:
    kind = {400: openai.BadRequestError, 429: openai.RateLimitError, 401: openai.AuthenticationError}
    response = httpx.Response(status, request=REQUEST)
    return kind.get(status, openai.InternalServerError)(message, response=response, body=None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class ContextWindowExceededError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no answer"), "agent"),
        (KeyError("city"), "agent"),
        (answered(400, "bad tool schema"), "agent"),
        (woodshed.RolloutTimeout("late"), "agent"),
        (woodshed.RolloutError("the agent called sys.exit"), "agent"),
        (TypeError("context length is no number"), "agent"),
        (woodshed.EngineUnreachable("gone"), "infrastructure"),
        (woodshed.LeakError("no rollout"), "infrastructure"),
        (openai.APIConnectionError(request=REQUEST), "infrastructure"),
        (openai.APITimeoutError(request=REQUEST), "infrastructure"),
        (answered(503), "infrastructure"),
        (answered(429), "infrastructure"),
        (httpx.ReadTimeout("slow"), "infrastructure"),
        (ConnectionResetError("reset"), "infrastructure"),
        (caused(ValueError("the agent failed"), answered(500)), "infrastructure"),
        (ExceptionGroup("tools", [KeyError("x"), httpx.ConnectError("down")]), "infrastructure"),
        (answered(400, TOO_LONG), "overflow"),
        (caused(RuntimeError("crew failed"), ContextWindowExceededError("too long")), "overflow"),
    ],
    ids=repr,
)
def test_the_cause_of_a_failure_is_kept(error: Exception, cause: str) -> None:
    failure = rollout_failure(error)

    assert (failure.kind, failure.cause) == (type(error).__name__, cause)


def broken(scenario: object) -> None:
    raise KeyError("city")


def test_the_line_of_the_users_code_that_failed_is_kept() -> None:
    try:
        woodshed.rollout(broken)("q")
    except KeyError as error:
        failure = rollout_failure(error)

    assert failure.where == f"test_cause.py:{broken.__code__.co_firstlineno + 1} in broken"
    assert str(failure) == f"KeyError: 'city' ({failure.where})"
