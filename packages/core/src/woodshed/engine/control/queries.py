"""The control plane's questions about what is served: templates and parsers, the machine, adapters, given sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

from woodshed.engine.client.machine import machine
from woodshed.engine.control.chat_template import ServedTemplate, to_calls
from woodshed.engine.control.responses import NotFound, answer, read
from woodshed.engine.gateway.sessions import Sessions
from woodshed.engine.gateway.upstream_call import Upstream
from woodshed.engine.trainer import Trainer
from woodshed.errors import EngineError
from woodshed.tokens import build_rows
from woodshed.types import (
    AdapterLoadTest,
    AdapterPlace,
    Imported,
    ImportedConversation,
    ImportedSession,
    ParseRequest,
    PolicyRef,
    PolicyState,
    Rendered,
    RenderRequest,
    SealedSession,
    Serving,
)

_LOAD_TESTED = "rehearsal"


class OpenedPolicy(Protocol):
    """A policy that is being trained."""

    trainer: Trainer
    state: PolicyState


class Probes:
    """Answers what a doctor and a warm-up ask."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        opened: Callable[[str, str | None], OpenedPolicy],
        sessions: Sessions,
        home: Path,
    ) -> None:
        """Look at `upstreams` and what `opened` finds of a policy; keep given sessions in `sessions`."""
        self._templates = {name: ServedTemplate(upstream) for name, upstream in upstreams.items()}
        self._upstreams = upstreams
        self._opened = opened
        self._sessions = sessions
        self._home = home
        self._load_test_lock = asyncio.Lock()

    def posts(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """Return path → handler."""
        return {
            "/machine": self._machine,
            "/models/{name:path}/serving": self._serving,
            "/models/{name:path}/render": self._render,
            "/models/{name:path}/parse": self._parse,
            "/policies/{name:path}/adapter": self._adapter,
            "/policies/{name:path}/test_adapter_load": self._test_adapter_load,
            "/imported/conversation": self._import_conversation,
            "/imported/session": self._import_session,
        }

    async def _machine(self, _: Request) -> Response:
        return answer(await asyncio.to_thread(machine, self._home))

    async def _serving(self, request: Request) -> Response:
        template, model = self._template(request.path_params["name"])
        return answer(
            Serving(
                missing_paths=await template.missing_paths(),
                stop_ids=tuple(sorted(await template.stop_ids())),
                tool_call_parser=model.server.model.tool_call_parser,
                max_model_len=await template.max_model_len(),
            )
        )

    async def _render(self, request: Request) -> Response:
        asked = await read(request, RenderRequest)
        template, _ = self._template(request.path_params["name"])
        ids = await template.render(asked.messages, asked.tools, generation_prompt=asked.generation_prompt)
        return answer(Rendered(token_ids=ids))

    async def _parse(self, request: Request) -> Response:
        asked = await read(request, ParseRequest)
        template, _ = self._template(request.path_params["name"])
        return answer(await template.parse(asked.messages, asked.tools, asked.prompt_ids, asked.token_ids))

    async def _adapter(self, request: Request) -> Response:
        return answer(await self._place(request))

    async def _test_adapter_load(self, request: Request) -> Response:
        """Load the newest adapter beside the one that serves, have it answer one token, and unload it."""
        place, upstream = await self._place(request), self._upstreams[request.path_params["name"]]
        adapter = f"{upstream.server.model.name}@{_LOAD_TESTED}"
        async with self._load_test_lock:
            await upstream.server.ready()
            began = time.monotonic()
            await _post(upstream, "/v1/load_lora_adapter", {"lora_name": adapter, "lora_path": place.path})
            seconds = time.monotonic() - began
            try:
                asked = {"model": adapter, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
                await _post(upstream, "/v1/chat/completions", asked)
            finally:
                await _post(upstream, "/v1/unload_lora_adapter", {"lora_name": adapter})
        return answer(AdapterLoadTest(seconds=seconds))

    async def _import_conversation(self, request: Request) -> Response:
        asked = await read(request, ImportedConversation)
        template, _ = self._template(asked.policy)
        turns = await template.turns(asked.messages, asked.tools)
        calls = to_calls(turns, asked.messages, asked.tools, asked.rollout_id)
        return answer(self._keep(asked.policy, SealedSession(rollout_id=asked.rollout_id, calls=calls)))

    async def _import_session(self, request: Request) -> Response:
        asked = await read(request, ImportedSession)
        self._template(asked.policy)
        return answer(self._keep(asked.policy, asked.session))

    def _keep(self, policy: str, session: SealedSession) -> Imported:
        self._sessions.import_session(policy, session)
        tokens = sum(sum(row.trained) for row in build_rows(session.calls))
        return Imported(rollout_id=session.rollout_id, tokens=tokens)

    def _template(self, name: str) -> tuple[ServedTemplate, Upstream]:
        if name not in self._templates:
            raise NotFound(f"there is no model {name!r}; this engine serves {sorted(self._templates)}")
        return self._templates[name], self._upstreams[name]

    async def _place(self, request: Request) -> AdapterPlace:
        asked = await read(request, PolicyRef)
        policy = self._opened(request.path_params["name"], asked.run_id)
        path = policy.trainer.adapter_path(policy.state.version)
        size = sum(file.stat().st_size for file in path.iterdir())
        return AdapterPlace(version=policy.state.version, path=str(path), size_mb=size / 2**20)


async def _post(upstream: Upstream, path: str, body: dict[str, object]) -> None:
    """Send a request to vLLM, and raise EngineError where it refuses."""
    try:
        async with upstream.http.post(upstream.server.url + path, json=body) as reply:
            if reply.status != 200:
                raise EngineError(f"vLLM answered {path} with {reply.status}: {(await reply.text())[:500]}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise EngineError(f"vLLM did not answer {path}: {error}") from error
