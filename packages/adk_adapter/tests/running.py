"""Run an author's agent as its author does, and keep all that can be seen of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps.app import App
from google.adk.runners import InMemoryRunner
from google.genai import types

QUIET = [
    # AgentTool runs its agent in a way that ADK itself has deprecated.
    pytest.mark.filterwarnings("ignore:.*`plugins` argument is deprecated:DeprecationWarning"),
    # ADK says once of every feature that it calls experimental that it is on.
    pytest.mark.filterwarnings(r"ignore:\[(EXPERIMENTAL|WIP)\]:UserWarning"),
]

SSE = RunConfig(streaming_mode=StreamingMode.SSE)

_IDS = re.compile(r"(e-|adk-)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMES = {"timestamp", "start_timestamp", "end_timestamp"}


def plain(value: Any) -> Any:
    """Return events without what differs between any two runs: ids and times."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {_IDS.sub('ID', str(value))}"
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json", exclude_none=True))
    if isinstance(value, dict):
        return {_IDS.sub("ID", str(k)): plain(v) for k, v in value.items() if k not in _TIMES}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return _IDS.sub("ID", value) if isinstance(value, str) else value


def in_any_order(events: list[Any]) -> list[str]:
    """Return events as sorted text: parallel branches differ in order from run to run."""
    return sorted(json.dumps(plain(event), sort_keys=True, default=repr) for event in events)


def message(text: str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=text)])


def runner_of(built: Any) -> InMemoryRunner:
    """Return a runner with a session service of its own."""
    if isinstance(built, App):
        return InMemoryRunner(app=built)
    # A workflow is a node, and everything else an agent.
    return InMemoryRunner(**({"agent": built} if hasattr(built, "sub_agents") else {"node": built}), app_name="app")


async def ask(
    runner: InMemoryRunner, text: str, *, session_id: str = "s", run_config: RunConfig | None = None, sync: bool = False
) -> list[Any]:
    """Return the events of one turn; the exception it ends with is the last of them."""
    service = runner.session_service
    if await service.get_session(app_name=runner.app_name, user_id="u", session_id=session_id) is None:
        await service.create_session(app_name=runner.app_name, user_id="u", session_id=session_id)
    asked: dict[str, Any] = {"user_id": "u", "session_id": session_id, "new_message": message(text)}
    events: list[Any] = []
    try:
        if sync:
            await asyncio.to_thread(lambda: events.extend(runner.run(**asked, run_config=run_config or RunConfig())))
        else:
            async for event in runner.run_async(**asked, run_config=run_config):
                events.append(event)
    except Exception as error:
        events.append(error)
    return events


async def session_of(runner: InMemoryRunner, session_id: str = "s") -> Any:
    session = await runner.session_service.get_session(app_name=runner.app_name, user_id="u", session_id=session_id)
    assert session is not None
    return session


def said(events: list[Any]) -> list[str]:
    """Return the texts of whole events, in order."""
    contents = [event.content for event in events if getattr(event, "content", None) and not event.partial]
    return [part.text for content in contents for part in content.parts or () if part.text]
