"""The control plane's queries: chat templates and parsers, the machine, adapters; and the import of sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

from woodshed.engine.client.machine import machine
from woodshed.engine.control.chat_template import ServedTemplate, to_calls
from woodshed.engine.control.policies import Policies
from woodshed.engine.control.read_calls import read_calls
from woodshed.engine.control.responses import NotFound, parse_body, record_response
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError
from woodshed.tokens import build_rows
from woodshed.types import (
    AdapterLoadTest,
    Imported,
    ImportedConversation,
    ImportedSession,
    ParseRequest,
    PolicyRef,
    ReadCallsRequest,
    Rendered,
    RenderRequest,
    SavedAdapter,
    SealedSession,
    Serving,
)

_LOAD_TEST = "load-test"
"""Stands in for the version in the name of an adapter that is loaded to see whether vLLM accepts it."""


class Queries:
    """Answers what `doctor`, a warm-up and an export ask about the models that are served."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        policies: Policies,
        sessions: Sessions,
        home: Path,
    ) -> None:
        """Answer about one engine.

        Args:
            upstreams: Model name → its vLLM server.
            policies: The policies that are open for training.
            sessions: Where imported sessions are kept.
            home: The engine's folder, whose disk is reported.
        """
        self._templates = {name: ServedTemplate(upstream) for name, upstream in upstreams.items()}
        self._upstreams = upstreams
        self._policies = policies
        self._sessions = sessions
        self._home = home
        self._load_test_lock = asyncio.Lock()

    def posts(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """Return path → handler of the POST routes."""
        return {
            "/machine": self._machine,
            "/models/{name:path}/serving": self._serving,
            "/models/{name:path}/render": self._render,
            "/models/{name:path}/parse": self._parse,
            "/models/{name:path}/read_calls": self._read_calls,
            "/policies/{name:path}/adapter": self._adapter,
            "/policies/{name:path}/test_adapter_load": self._test_adapter_load,
            "/imported/conversation": self._import_conversation,
            "/imported/session": self._import_session,
        }

    async def _machine(self, _: Request) -> Response:
        return record_response(await asyncio.to_thread(machine, self._home))

    async def _serving(self, http_request: Request) -> Response:
        template, upstream = self._template(http_request.path_params["name"])
        return record_response(
            Serving(
                missing_paths=await template.missing_paths(),
                stop_ids=tuple(sorted(await template.stop_ids())),
                tool_call_parser=upstream.model.tool_call_parser,
                max_model_len=await template.max_model_len(),
            )
        )

    async def _render(self, http_request: Request) -> Response:
        request = await parse_body(http_request, RenderRequest)
        template, _ = self._template(http_request.path_params["name"])
        token_ids = await template.render(request.messages, request.tools, generation_prompt=request.generation_prompt)
        return record_response(Rendered(token_ids=token_ids))

    async def _parse(self, http_request: Request) -> Response:
        request = await parse_body(http_request, ParseRequest)
        template, _ = self._template(http_request.path_params["name"])
        return record_response(
            await template.parse(request.messages, request.tools, request.prompt_ids, request.token_ids)
        )

    async def _read_calls(self, http_request: Request) -> Response:
        request = await parse_body(http_request, ReadCallsRequest)
        _, upstream = self._template(http_request.path_params["name"])
        return record_response(await read_calls(upstream.model, request))

    async def _adapter(self, http_request: Request) -> Response:
        return record_response(await self._newest_adapter(http_request))

    async def _test_adapter_load(self, http_request: Request) -> Response:
        """Load the newest adapter beside the one in use, sample one token from it, and unload it."""
        saved, upstream = await self._newest_adapter(http_request), self._upstreams[http_request.path_params["name"]]
        adapter, server = f"{upstream.model.name}@{_LOAD_TEST}", upstream.server
        async with self._load_test_lock:
            await server.ready()
            began = time.monotonic()
            await _post(upstream, server, "/v1/load_lora_adapter", {"lora_name": adapter, "lora_path": saved.path})
            seconds = time.monotonic() - began
            try:
                call = {"model": adapter, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
                await _post(upstream, server, "/v1/chat/completions", call)
            finally:
                await _post(upstream, server, "/v1/unload_lora_adapter", {"lora_name": adapter})
        return record_response(AdapterLoadTest(seconds=seconds))

    async def _import_conversation(self, http_request: Request) -> Response:
        request = await parse_body(http_request, ImportedConversation)
        template, _ = self._template(request.policy)
        turns = await template.turns(request.messages, request.tools)
        calls = to_calls(turns, request.messages, request.tools, request.rollout_id)
        return record_response(self._import(request.policy, SealedSession(rollout_id=request.rollout_id, calls=calls)))

    async def _import_session(self, http_request: Request) -> Response:
        request = await parse_body(http_request, ImportedSession)
        self._template(request.policy)
        return record_response(self._import(request.policy, request.session))

    def _import(self, policy: str, session: SealedSession) -> Imported:
        self._sessions.import_session(policy, session)
        tokens = sum(sum(row.trained) for row in build_rows(session.calls))
        return Imported(rollout_id=session.rollout_id, tokens=tokens)

    def _template(self, name: str) -> tuple[ServedTemplate, Upstream]:
        if name not in self._templates:
            raise NotFound(f"there is no model {name!r}; this engine serves {sorted(self._templates)}")
        return self._templates[name], self._upstreams[name]

    async def _newest_adapter(self, http_request: Request) -> SavedAdapter:
        request = await parse_body(http_request, PolicyRef)
        policy = self._policies.get(http_request.path_params["name"], request.run_id)
        path = policy.trainer.adapter_path(policy.state.version)
        size = sum(file.stat().st_size for file in path.iterdir())
        return SavedAdapter(version=policy.state.version, path=str(path), size_mb=size / 2**20)


async def _post(upstream: Upstream, server: ModelServer, path: str, body: dict[str, object]) -> None:
    """Send a request to vLLM; raises EngineError where vLLM refuses it or does not answer."""
    try:
        async with upstream.http.post(server.url + path, json=body, headers=server.headers) as reply:
            if reply.status != 200:
                raise EngineError(f"vLLM answered {path} with {reply.status}: {(await reply.text())[:500]}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineError(f"vLLM did not answer {path}: {error}") from error
