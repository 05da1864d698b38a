"""vLLM's port is for the gateway alone; runs inside vLLM's own process and nowhere else.

Whoever reaches the port could load any folder as an adapter. vLLM's own `--api-key` leaves some paths open and stands
in the list of processes; here every path needs the key, which comes in the environment.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

KEY = "WOODSHED_VLLM_KEY"
"""Environment variable with the key of this start."""
_REFUSAL = b'{"error":{"message":"this port is for the engine\'s gateway","type":"authentication_error","code":401}}'


class Door:
    """ASGI middleware that answers 401 to every request without the key."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        """Wrap `app`; the key is read once, when vLLM starts."""
        self._app = app
        self._expected = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or hmac.compare_digest(_authorization(scope), self._expected):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            head = [(b"content-type", b"application/json"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 401, "headers": head})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _authorization(scope: Any) -> bytes:
    return next((bytes(value) for name, value in scope["headers"] if name == b"authorization"), b"")
