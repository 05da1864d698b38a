"""A scripted engine: a real HTTP server on loopback that speaks OpenAI chat completions from a function.

It is for unit tests of adapters and agents. It keeps the promises a woodshed engine keeps towards an agent: bearer
secrets per rollout, 409 once sealed, call ids, retries of one call as one record. It samples nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from woodshed.capture import CALL_ID_HEADER, Rollout, assemble, new_id
from woodshed.errors import ConfigError
from woodshed.testing.loopback import LoopbackHandler, LoopbackServer
from woodshed.testing.replies import Reply, Script
from woodshed.testing.sessions import Seen, Session, Sessions, recorded
from woodshed.testing.wire import chunks, completion
from woodshed.types import Failure, SealedSession, SessionGrant, Status, Trajectory

__all__ = ["ScriptedEngine", "Seen"]


class ScriptedEngine:
    """An OpenAI-compatible server whose answers a function writes.

    A call with a session's secret as its API key is recorded for that rollout; any other key is served and only
    remembered in `requests`.

    Example:
        ```python
        with ScriptedEngine(lambda request: say("Paris")) as engine:
            OpenAI(base_url=engine.base_url, api_key="any").chat.completions.create(model="m", messages=[...])
        ```
    """

    def __init__(self, script: Script) -> None:
        """Take the function that answers; `start` or `with` opens the port."""
        self.script = script
        self.sessions = Sessions()
        self.stopping = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen on a free loopback port."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.engine = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="scripted-engine")
        self._thread.daemon = True
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening; hanging requests are cut."""
        self.stopping.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    @property
    def base_url(self) -> str:
        """OpenAI base URL, ending in `/v1`."""
        if self._server is None:
            raise ConfigError("the scripted engine is not running; use `with ScriptedEngine(script) as engine:`")
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Every request so far, in order of arrival."""
        return self.sessions.seen

    def open(self, scenario_id: str = "scenario") -> SessionGrant:
        """Open a session for one rollout."""
        rollout_id = f"{scenario_id}-{new_id()[:8]}"
        return SessionGrant(rollout_id=rollout_id, secret=self.sessions.open(rollout_id), base_url=self.base_url)

    def seal(self, rollout_id: str) -> SealedSession:
        """Close a session and return its calls; a later call is answered 409."""
        return self.sessions.seal(rollout_id)

    def trajectory(self, rollout: Rollout, *, status: Status = "completed", error: Failure | None = None) -> Trajectory:
        """Seal the rollout's session and return its trajectory, both planes joined."""
        return assemble(rollout, self.seal(rollout.rollout_id), status=status, error=error)


class _Server(LoopbackServer):
    engine: ScriptedEngine


class _Handler(LoopbackHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.read_json()
        engine, started_s = self.server.engine, time.time()
        if not self.path.endswith("/chat/completions"):
            return self._send_error(404, f"no route {self.path!r}; this engine serves /v1/chat/completions")
        headers = {name.lower(): value for name, value in self.headers.items()}
        call_id = headers.get(CALL_ID_HEADER) or new_id()
        secret = headers.get("authorization", "").removeprefix("Bearer ").strip()
        try:
            session = engine.sessions.admit(secret, call_id, body, headers)
        except PermissionError as error:
            return self._send_error(409, str(error), {"x-should-retry": "false"})
        try:
            replies = _replies(engine.script(body))
        except Exception as error:
            return self._send_error(400, f"the script raised {type(error).__name__}: {error}")
        self._answer(body, replies, session, call_id, started_s)

    def _answer(
        self, body: dict[str, Any], replies: Sequence[Reply], session: Session | None, call_id: str, started_s: float
    ) -> None:
        first, engine = replies[0], self.server.engine
        if first.hangs:
            engine.stopping.wait()
            self.close_connection = True
            return
        if first.delay_s and engine.stopping.wait(first.delay_s):
            self.close_connection = True
            return
        call = recorded(call_id, body, replies, started_s)
        if session is not None:
            engine.sessions.keep(session, call)
        if first.status != 200:
            extra = {} if first.retry_after_s is None else {"Retry-After": f"{first.retry_after_s:g}"}
            self._send_error(first.status, f"scripted status {first.status}", extra, first.code)
        elif body.get("stream"):
            self.send_events(list(chunks(body, replies, call)))
        else:
            self.send_json(200, completion(body, replies, call))

    def _send_error(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, code: str | None = None
    ) -> None:
        self.send_json(status, {"error": {"message": message, "type": "scripted", "code": code or status}}, headers)


def _replies(answer: Reply | Sequence[Reply]) -> tuple[Reply, ...]:
    """Return one reply per choice; tool requests without an id get a fresh one."""
    replies = (answer,) if isinstance(answer, Reply) else tuple(answer)
    return tuple(
        replace(
            reply,
            tool_requests=tuple(
                call if call.id else call.model_copy(update={"id": f"call_{new_id()[:12]}"})
                for call in reply.tool_requests
            ),
        )
        for reply in replies
    )
