"""HTTP clients for the gateway: connections are pooled over rollouts, the secret is each rollout's own."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from typing import Any
from urllib.parse import urlsplit

import openai

from etude.capture import Rollout
from etude_langgraph._attempts import state_of

READ_TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 10.0

_lock = threading.Lock()
_sync: dict[str, openai.OpenAI] = {}
_waiting: weakref.WeakSet[AsyncIterator[None]] = weakref.WeakSet()
_Bound = tuple[asyncio.AbstractEventLoop, openai.AsyncOpenAI]
_async: dict[tuple[str, int], _Bound] = {}
"""Per event loop: a pooled connection dies with the loop that opened it."""


def sync_client(rollout: Rollout, max_retries: int) -> openai.OpenAI:
    """Return the rollout's client."""
    clients, key = state_of(rollout).clients, max_retries
    client: openai.OpenAI | None = clients.get(key)
    if client is None:
        with _lock:
            shared = _sync.get(rollout.base_url)
            if shared is None:
                shared = _sync[rollout.base_url] = openai.OpenAI(
                    http_client=openai.DefaultHttpxClient(**_options(rollout.base_url)), **_settings(rollout)
                )
        client = clients[key] = shared.with_options(api_key=rollout.secret, max_retries=max_retries)
    return client


def async_client(rollout: Rollout, max_retries: int) -> openai.AsyncOpenAI:
    """Return the rollout's client for the running event loop."""
    loop = asyncio.get_running_loop()
    clients, key = state_of(rollout).clients, (max_retries, id(loop))
    found: _Bound | None = clients.get(key)
    if found is None or found[0] is not loop:
        with _lock:
            shared = _shared_async(rollout, loop)
        found = clients[key] = (loop, shared.with_options(api_key=rollout.secret, max_retries=max_retries))
    return found[1]


def _shared_async(rollout: Rollout, loop: asyncio.AbstractEventLoop) -> openai.AsyncOpenAI:
    key = (rollout.base_url, id(loop))
    known = _async.get(key)
    if known is not None and known[0] is loop:
        return known[1]
    for dead in [k for k, (other, _) in _async.items() if other.is_closed()]:
        del _async[dead]
    client = openai.AsyncOpenAI(
        http_client=openai.DefaultAsyncHttpxClient(**_options(rollout.base_url)), **_settings(rollout)
    )
    _async[key] = (loop, client)
    _close_with_loop(client)
    return client


def _close_with_loop(client: openai.AsyncOpenAI) -> None:
    """Close the client's connections when the running loop shuts down its async generators, as `asyncio.run` does."""

    async def wait() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await client.close()

    waiting = wait()
    _waiting.add(waiting)
    with contextlib.suppress(StopIteration):
        waiting.__anext__().__await__().send(None)


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
