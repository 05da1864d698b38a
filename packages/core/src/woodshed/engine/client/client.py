"""The client's side of the control plane: typed calls to a running engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from woodshed.errors import DriftError, EngineError, EngineUnreachable, PolicyLost, RequestRefused, TrainError
from woodshed.types import (
    PROTOCOL,
    AdapterFiles,
    AdapterLoadTest,
    AdapterRef,
    EngineHealth,
    Imported,
    ImportedConversation,
    ImportedSession,
    Logs,
    LogsRequest,
    Machine,
    Message,
    OpenPolicy,
    OpenSession,
    ParseRequest,
    PolicyRef,
    PolicyState,
    ReadCalls,
    ReadCallsRequest,
    Rendered,
    RenderRequest,
    ReplicaHealth,
    SavedAdapter,
    SealedSession,
    Serving,
    SessionGrant,
    StepReport,
    StepRequest,
)

Answer = TypeVar("Answer", bound=BaseModel)
RunRequest = TypeVar("RunRequest", OpenSession, PolicyRef, StepRequest)

_ERRORS: dict[str, type[EngineError]] = {kind.__name__: kind for kind in (TrainError, DriftError, PolicyLost)}
_TIMEOUT_S = 60.0


class EngineClient:
    """A client of one engine; `Engine.local().running(…)` or `Engine.connect(url).running(…)` opens and closes it."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: Root address, such as `http://127.0.0.1:8900`.
            api_key: The engine's key; an engine on loopback may have none.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        self.api_key = api_key or "unset"
        """The API key for an OpenAI client whose calls belong to no rollout, such as a judge's."""
        self._runs: dict[str, str] = {}
        """Policy → the run that this client opened it for, which its sessions and steps are then sent for."""
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/woodshed/v1",
            headers={"authorization": f"Bearer {self.api_key}"},
            # The engine is on loopback or in the same network, where a proxy of the environment does not lead.
            trust_env=False,
            timeout=httpx.Timeout(_TIMEOUT_S, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @property
    def openai_base_url(self) -> str:
        """Base URL for an OpenAI client whose calls belong to no rollout (a judge or an eval served by this engine)."""
        return f"{self.url}/v1"

    async def health(self) -> EngineHealth:
        """Return the engine's state, after checking that client and engine speak the same protocol.

        Raises:
            EngineError: The engine speaks another protocol.
            EngineUnreachable: Nothing answers at the engine's address.
        """
        answer = await self._send("GET", "health")
        protocol = answer.get("protocol")
        if protocol != PROTOCOL:
            raise EngineError(
                f"the engine at {self.url} speaks protocol {protocol!r}, this client {PROTOCOL}; "
                "install the same version of woodshed on both sides"
            )
        return self._read(EngineHealth, answer)

    async def open_policy(self, request: OpenPolicy) -> PolicyState:
        """Open a policy for training; one that was trained before continues from its newest checkpoint.

        From then on this client's sessions and steps of that policy belong to that run, unless they name another one.

        Raises:
            EngineError: The engine cannot train the policy as requested, or another run is using it.
            TrainError: The trainer could not start.
        """
        state = self._read(PolicyState, await self._send("POST", "policies", request, timeout_s=600.0))
        self._runs[request.name] = request.run_id
        return state

    async def open_session(self, request: OpenSession) -> SessionGrant:
        """Open a session for one rollout; an unsealed one of the same rollout is deleted with its calls.

        Raises:
            PolicyLost: Another run holds the policy that this one opened.
        """
        request = self._for_run(request, request.policy)
        grant = self._read(SessionGrant, await self._send("POST", "sessions", request))
        # The address at which this client reaches the engine, through any proxy and under any path.
        return grant.model_copy(update={"base_url": self.openai_base_url, "run_id": request.run_id})

    async def seal(self, rollout_id: str) -> SealedSession:
        """Close a session and return every call it recorded; may be repeated. Calls still in flight are cancelled."""
        return self._read(SealedSession, await self._send("POST", f"sessions/{quote(rollout_id, safe='')}/seal"))

    async def step(self, policy: str, request: StepRequest) -> StepReport:
        """Take one optimizer step; once this returns, new calls are answered by the new weights.

        Raises:
            TrainError: The step could not be taken; the policy is as it was.
            PolicyLost: Another run holds the policy that this one opened.
        """
        path, request = f"policies/{quote(policy, safe='')}/step", self._for_run(request, policy)
        return self._read(StepReport, await self._send("POST", path, request, timeout_s=None))

    async def adapter(self, policy: str) -> SavedAdapter:
        """Return where an open policy's newest adapter is stored on the engine's machine.

        Raises:
            PolicyLost: Another run holds the policy that this one opened.
        """
        path, request = f"policies/{quote(policy, safe='')}/adapter", self._for_run(PolicyRef(), policy)
        return self._read(SavedAdapter, await self._send("POST", path, request))

    async def test_adapter_load(self, policy: str) -> AdapterLoadTest:
        """Have vLLM load an open policy's newest adapter beside the one in use, sample a token from it, and unload it.

        Raises:
            PolicyLost: Another run holds the policy that this one opened.
        """
        path, request = f"policies/{quote(policy, safe='')}/test_adapter_load", self._for_run(PolicyRef(), policy)
        return self._read(AdapterLoadTest, await self._send("POST", path, request))

    async def adapter_files(self, policy: str, request: AdapterRef) -> AdapterFiles:
        """Return the files of a run's LoRA; `adapter_files.fetch_adapter` fetches them.

        Raises:
            EngineError: This engine keeps no such checkpoint.
        """
        path = f"policies/{quote(policy, safe='')}/adapter_files"
        return self._read(AdapterFiles, await self._send("POST", path, request))

    @asynccontextmanager
    async def adapter_file(
        self, policy: str, run_id: str, version: int, name: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the bytes of one file of a run's LoRA, in parts.

        Raises:
            EngineError: This engine does not have it (any more).
            EngineUnreachable: The connection broke; what came so far is not the file.
        """
        path = f"policies/{quote(policy, safe='')}/runs/{quote(run_id, safe='')}/adapters/{version}/{quote(name)}"
        with self._reaching(path, _TIMEOUT_S):
            async with self._http.stream("GET", path) as reply:
                if not reply.is_success:
                    await reply.aread()
                    self._unpack(reply, path)
                yield reply.aiter_bytes()

    async def logs(self, request: LogsRequest | None = None) -> Logs:
        """Return the last lines of each of the engine's logs."""
        return self._read(Logs, await self._send("POST", "logs", request or LogsRequest()))

    async def import_session(self, imported: ImportedConversation | ImportedSession) -> Imported:
        """Have the engine store calls that it did not serve, to be trained on like its own.

        Raises:
            RequestRefused: The chat template cannot write a conversation as the model would have sampled it.
        """
        kind = "conversation" if isinstance(imported, ImportedConversation) else "session"
        return self._read(Imported, await self._send("POST", f"imported/{kind}", imported))

    async def machine(self) -> Machine:
        """Return the engine's machine: its GPUs, free memory and disk, and installed packages."""
        return self._read(Machine, await self._send("POST", "machine"))

    async def serving(self, model: str) -> Serving:
        """Return what a served model's vLLM offers."""
        return self._read(Serving, await self._send("POST", f"models/{quote(model, safe='')}/serving"))

    async def render(self, model: str, request: RenderRequest) -> Rendered:
        """Return a conversation's tokens, as a served model's chat template writes it."""
        return self._read(Rendered, await self._send("POST", f"models/{quote(model, safe='')}/render", request))

    async def parse(self, model: str, request: ParseRequest) -> Message:
        """Return an answer's tokens as a message, parsed by a served model's own parsers."""
        return self._read(Message, await self._send("POST", f"models/{quote(model, safe='')}/parse", request))

    async def read_calls(self, model: str, request: ReadCallsRequest) -> ReadCalls:
        """Return which of vLLM's tool parsers read calls in answers that a served model sampled."""
        return self._read(ReadCalls, await self._send("POST", f"models/{quote(model, safe='')}/read_calls", request))

    async def pause(self) -> None:
        """Answer new model calls 429 with `Retry-After` until `resume`; calls in flight finish."""
        await self._send("POST", "pause")

    async def resume(self) -> None:
        """Answer model calls again."""
        await self._send("POST", "resume")

    async def restart_replica(self, model: str, number: int) -> ReplicaHealth:
        """Restart one of a model's vLLM servers (from 1) once its calls have ended; it gets no new ones meanwhile.

        Raises:
            EngineError: There is no such server, it is being restarted already, or does not start any more.
        """
        return self._read(ReplicaHealth, await self._send("POST", f"models/{model}/replicas/{number}/restart"))

    async def shutdown(self) -> None:
        """Stop the engine and everything it started."""
        await self._send("POST", "shutdown")

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

    def _for_run(self, request: RunRequest, policy: str) -> RunRequest:
        """Return the request for the run that the policy was opened for, unless it names a run."""
        run_id = request.run_id or self._runs.get(policy)
        return request.model_copy(update={"run_id": run_id})

    async def _send(
        self, method: str, path: str, body: BaseModel | None = None, *, timeout_s: float | None = _TIMEOUT_S
    ) -> dict[str, Any]:
        content = None if body is None else body.model_dump_json().encode()
        headers = {"content-type": "application/json"}
        timeout = httpx.Timeout(timeout_s, connect=10.0)
        with self._reaching(path, timeout_s):
            reply = await self._http.request(method, path, content=content, headers=headers, timeout=timeout)
        return self._unpack(reply, path)

    @contextmanager
    def _reaching(self, path: str, timeout_s: float | None) -> Iterator[None]:
        """Raise what the network does to a request as EngineUnreachable."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise EngineUnreachable(f"the engine at {self.url} did not answer {path!r} in {timeout_s} s") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise EngineUnreachable(
                f"nothing answers at {self.url} ({type(error).__name__}: {error}); is the engine running there? "
                "'woodshed engine start' starts one"
            ) from error

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
