"""Clients that woodshed made are known without reading their address at every call, and guarded like any other."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from woodshed.capture import SDK_HOOKS, HookSet, Rollout, bind
from woodshed.capture.clients import sync_client
from woodshed.errors import LeakError

NOBODY = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def guarded() -> Iterator[None]:
    hooks = HookSet(SDK_HOOKS)
    hooks.apply()
    yield
    hooks.revert()


def ask(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])


def rollout(secret: str = "s") -> Rollout:
    return Rollout(base_url=NOBODY, secret=secret)


def test_a_rollouts_own_client_reaches_the_policy() -> None:
    one = rollout()

    with bind(one), pytest.raises(openai.APIConnectionError):  # nobody listens there: it was sent
        ask(sync_client(one, 0))
    assert one.error is None


def test_a_rollouts_own_client_whose_address_was_changed_is_stopped() -> None:
    one = rollout()
    client = sync_client(one, 0)
    client.base_url = "http://127.0.0.1:10/v1"

    with bind(one), pytest.raises(LeakError, match=r"goes to http://127\.0\.0\.1:10/v1/ instead of the policy"):
        ask(client)
    assert isinstance(one.error, LeakError)


def test_a_client_made_for_another_rollout_is_stopped() -> None:
    one, other = rollout("one"), rollout("other")

    with bind(other), pytest.raises(LeakError, match="another rollout's secret"):
        ask(sync_client(one, 0))
    assert isinstance(other.error, LeakError)
