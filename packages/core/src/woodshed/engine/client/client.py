"""The client's side of the control plane: typed calls to a running engine."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from woodshed.errors import DriftError, EngineError, EngineUnreachable, PolicyLost, RequestRefused, TrainError
from woodshed.types import (
    PROTOCOL,
    AdapterLoadTest,
    AdapterPlace,
    EngineHealth,
    Imported,
    ImportedConversation,
    ImportedSession,
    Machine,
    Message,
    OpenPolicy,
    OpenSession,
    ParseRequest,
    PolicyRef,
    PolicyState,
    Rendered,
    RenderRequest,
    SealedSession,
    Serving,
    SessionGrant,
    StepReport,
    StepRequest,
)

Answer = TypeVar("Answer", bound=BaseModel)
Asked = TypeVar("Asked", OpenSession, PolicyRef, StepRequest)

_ERRORS: dict[str, type[EngineError]] = {kind.__name__: kind for kind in (TrainError, DriftError, PolicyLost)}
_QUICK_S = 60.0


class EngineClient:
    """Talks to one engine; make it with `Engine.local()` or `Engine.connect(url)`, close it with `aclose()`."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Remember where the engine is; nothing is sent yet.

        Args:
            url: Root address, such as `http://127.0.0.1:8900`.
            api_key: The engine's key; an engine on loopback may have none.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self.api_key = api_key or "unset"
        """What an OpenAI client sends for calls that belong to no rollout, such as a judge's."""
        self._runs: dict[str, str] = {}
        """Policy → the run that it was opened for here, which sessions and steps then speak for."""
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/woodshed/v1",
            headers={"authorization": f"Bearer {self.api_key}"},
            # The engine may be on loopback or in the same network: a proxy of the environment never leads there.
            trust_env=False,
            timeout=httpx.Timeout(_QUICK_S, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @property
    def openai_base_url(self) -> str:
        """Base URL for an OpenAI client whose calls belong to no rollout (a judge or an eval served by this engine)."""
        return f"{self.url}/v1"

    async def health(self) -> EngineHealth:
        """Return what the engine says of itself, after checking that both speak the same protocol."""
        answer = await self._ask("GET", "health")
        spoken = answer.get("protocol")
        if spoken != PROTOCOL:
            raise EngineError(
                f"the engine at {self.url} speaks protocol {spoken!r}, this client {PROTOCOL}; "
                "install the same version of woodshed on both sides"
            )
        return self._read(EngineHealth, answer)

    async def open_policy(self, request: OpenPolicy) -> PolicyState:
        """Open a policy for training; one that was trained before continues from its newest checkpoint.

        From then on this client's sessions and steps of that policy are the run's, where they name no other.
        """
        state = self._read(PolicyState, await self._ask("POST", "policies", request, timeout_s=600.0))
        self._runs[request.name] = request.run_id
        return state

    async def open_session(self, request: OpenSession) -> SessionGrant:
        """Open a session for one rollout; an unsealed session of the same rollout is replaced, its calls forgotten.

        Raises:
            PolicyLost: another run holds the policy that this one opened.
        """
        request = self._by_run(request, request.policy)
        return self._read(SessionGrant, await self._ask("POST", "sessions", request))

    async def seal(self, rollout_id: str) -> SealedSession:
        """Close a session and return every call it recorded; calls still in flight are cancelled. Repeatable."""
        return self._read(SealedSession, await self._ask("POST", f"sessions/{quote(rollout_id, safe='')}/seal"))

    async def step(self, policy: str, request: StepRequest) -> StepReport:
        """Take one optimizer step; when this returns, new calls are answered by the new weights.

        Raises:
            TrainError: The step could not be taken; the policy is as it was.
            PolicyLost: another run holds the policy that this one opened.
        """
        path, request = f"policies/{quote(policy, safe='')}/step", self._by_run(request, policy)
        return self._read(StepReport, await self._ask("POST", path, request, timeout_s=None))

    async def adapter(self, policy: str) -> AdapterPlace:
        """Return where an open policy's newest adapter is on the engine's machine.

        Raises:
            PolicyLost: another run holds the policy that this one opened.
        """
        path, asked = f"policies/{quote(policy, safe='')}/adapter", self._by_run(PolicyRef(), policy)
        return self._read(AdapterPlace, await self._ask("POST", path, asked))

    async def test_adapter_load(self, policy: str) -> AdapterLoadTest:
        """Have vLLM load an open policy's newest adapter beside the one that serves, answer with it, and unload it.

        Raises:
            PolicyLost: another run holds the policy that this one opened.
        """
        path, asked = f"policies/{quote(policy, safe='')}/test_adapter_load", self._by_run(PolicyRef(), policy)
        return self._read(AdapterLoadTest, await self._ask("POST", path, asked))

    async def import_session(self, imported: ImportedConversation | ImportedSession) -> Imported:
        """Have the engine keep calls that it did not serve, to be trained like its own.

        Raises:
            RequestRefused: a conversation cannot be written as its model would have sampled it.
        """
        kind = "conversation" if isinstance(imported, ImportedConversation) else "session"
        return self._read(Imported, await self._ask("POST", f"imported/{kind}", imported))

    async def machine(self) -> Machine:
        """Return the engine's machine as it is now."""
        return self._read(Machine, await self._ask("POST", "machine"))

    async def serving(self, model: str) -> Serving:
        """Return what a served model's vLLM offers."""
        return self._read(Serving, await self._ask("POST", f"models/{quote(model, safe='')}/serving"))

    async def render(self, model: str, request: RenderRequest) -> Rendered:
        """Return a conversation as a served model reads it."""
        return self._read(Rendered, await self._ask("POST", f"models/{quote(model, safe='')}/render", request))

    async def parse(self, model: str, request: ParseRequest) -> Message:
        """Return what a served model's own parsers make of an answer's tokens."""
        return self._read(Message, await self._ask("POST", f"models/{quote(model, safe='')}/parse", request))

    async def pause(self) -> None:
        """Answer new model calls 429 with `Retry-After` until `resume`; calls in flight finish."""
        await self._ask("POST", "pause")

    async def resume(self) -> None:
        """Answer model calls again."""
        await self._ask("POST", "resume")

    async def shutdown(self) -> None:
        """Stop the engine and everything it started."""
        await self._ask("POST", "shutdown")

    async def aclose(self) -> None:
        """Close this client's connections; the engine keeps running."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.aclose()

    def _by_run(self, request: Asked, policy: str) -> Asked:
        """Return the request in the name of the run that the policy was opened for."""
        run_id = request.run_id or self._runs.get(policy)
        return request.model_copy(update={"run_id": run_id})

    async def _ask(
        self, method: str, path: str, body: BaseModel | None = None, *, timeout_s: float | None = _QUICK_S
    ) -> dict[str, Any]:
        content = None if body is None else body.model_dump_json().encode()
        headers = {"content-type": "application/json"}
        timeout = httpx.Timeout(timeout_s, connect=10.0)
        try:
            reply = await self._http.request(method, path, content=content, headers=headers, timeout=timeout)
        except httpx.TimeoutException as error:
            raise EngineUnreachable(f"the engine at {self.url} did not answer {path!r} in {timeout_s} s") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise EngineUnreachable(
                f"nothing answers at {self.url} ({type(error).__name__}: {error}); is the engine running there? "
                "'woodshed engine start' starts one"
            ) from error
        return self._unpack(reply, path)

    def _unpack(self, reply: httpx.Response, path: str) -> dict[str, Any]:
        try:
            answer = reply.json()
        except ValueError:
            answer = None
        if reply.is_success and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            error = answer["error"]
            plain = RequestRefused if reply.status_code == 400 else EngineError
            raise _ERRORS.get(str(error.get("type")), plain)(str(error.get("message")))
        raise EngineError(
            f"{self.url} answered {path!r} with status {reply.status_code} and no answer of an woodshed engine; "
            "is the address right?"
        )

    def _read(self, kind: type[Answer], answer: dict[str, Any]) -> Answer:
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            raise EngineError(
                f"the engine at {self.url} sent a {kind.__name__} that cannot be read: {error}"
            ) from error
