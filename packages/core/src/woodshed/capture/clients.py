"""OpenAI clients for the gateway: connections are pooled over rollouts, the secret is each rollout's own.

Imported by adapters and by name only, so that `import woodshed` stays without the OpenAI SDK.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ipaddress
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import openai

from woodshed.capture.rollout import Rollout
from woodshed.capture.sdk_guard import mark_own

READ_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0

_lock = threading.Lock()
_of_rollout: weakref.WeakKeyDictionary[Rollout, dict[Any, Any]] = weakref.WeakKeyDictionary()
_sync: dict[str, openai.OpenAI] = {}
_async: dict[tuple[str, asyncio.AbstractEventLoop], openai.AsyncOpenAI] = {}
"""Per event loop: a pooled connection dies with the loop that opened it."""
_closers: dict[tuple[str, asyncio.AbstractEventLoop], AsyncIterator[None]] = {}


def sync_client(rollout: Rollout, max_retries: int = openai.DEFAULT_MAX_RETRIES) -> openai.OpenAI:
    """Return the rollout's client."""
    clients, key = _of_rollout.setdefault(rollout, {}), max_retries
    client: openai.OpenAI | None = clients.get(key)
    if client is None:
        with _lock:
            shared = _sync.get(rollout.base_url)
            if shared is None:
                shared = _sync[rollout.base_url] = openai.OpenAI(
                    http_client=openai.DefaultHttpxClient(**_options(rollout.base_url)), **_settings(rollout)
                )
        client = clients[key] = shared.with_options(api_key=rollout.secret, max_retries=max_retries)
        mark_own(client)
    return client


def async_client(rollout: Rollout, max_retries: int = openai.DEFAULT_MAX_RETRIES) -> openai.AsyncOpenAI:
    """Return the rollout's client for the running event loop."""
    loop = asyncio.get_running_loop()
    clients, key = _of_rollout.setdefault(rollout, {}), (max_retries, loop)
    client: openai.AsyncOpenAI | None = clients.get(key)
    if client is None:
        with _lock:
            shared = _async.get((rollout.base_url, loop)) or _shared_async(rollout, loop)
        client = clients[key] = shared.with_options(api_key=rollout.secret, max_retries=max_retries)
        mark_own(client)
    return client


@atexit.register
def _close_sync() -> None:
    for client in _sync.values():
        client.close()


def _shared_async(rollout: Rollout, loop: asyncio.AbstractEventLoop) -> openai.AsyncOpenAI:
    for dead in [known for known in _async if known[1].is_closed()]:
        del _async[dead], _closers[dead]
    key = (rollout.base_url, loop)
    client = _async[key] = openai.AsyncOpenAI(
        http_client=openai.DefaultAsyncHttpxClient(**_options(rollout.base_url)), **_settings(rollout)
    )
    _closers[key] = _closer(client)
    # Run to its first `yield`: from now on the loop knows it, and ends it when it shuts down its async generators.
    with contextlib.suppress(StopIteration):
        _closers[key].__anext__().__await__().send(None)
    return client


async def _closer(client: openai.AsyncOpenAI) -> AsyncIterator[None]:
    """Close the client's connections when the event loop that opened them shuts down its async generators."""
    try:
        yield
    finally:
        await client.close()


def _settings(rollout: Rollout) -> dict[str, Any]:
    return {"base_url": rollout.base_url, "api_key": "one-per-rollout"}


def _options(base_url: str) -> dict[str, Any]:
    # A proxy set for the internet does not know this machine's loopback.
    timeout = openai.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return {"timeout": timeout, "trust_env": not _is_loopback(base_url)}


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
