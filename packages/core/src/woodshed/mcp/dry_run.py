"""Dry run of tasks: make the tool calls each one is known to need, and reject the tasks whose calls fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from woodshed.errors import McpServerError
from woodshed.mcp.catalog import Catalog
from woodshed.mcp.scenario import PlannedCall, Rejected, Scenario, normal
from woodshed.mcp.session import Session, Sessions
from woodshed.mcp.tools import refuse_arguments

_CONCURRENT_SESSIONS = 4
_SHOWN_CHARS = 200


@dataclass(kw_only=True, slots=True)
class DryRun:
    """Makes each distinct planned call of many scenarios once; only read-only tools are called."""

    sessions: Sessions
    catalog: Catalog
    _refusals: dict[str, str | None] = field(default_factory=dict)
    _tasks: set[str] = field(default_factory=set)

    async def filter(self, scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Rejected]]:
        """Return the scenarios whose calls succeed, without duplicates, and the rejected ones with reasons.

        Raises:
            McpServerError: the server cannot be reached any more.
        """
        await self._try_out({_key(call): call for scenario in scenarios for call in scenario.calls})
        kept: list[Scenario] = []
        rejected: list[Rejected] = []
        for scenario in scenarios:
            reason = next((r for call in scenario.calls if (r := self._refusals[_key(call)]) is not None), None)
            if reason is None and normal(scenario.task) in self._tasks:
                reason = "duplicate task"
            if reason is None:
                self._tasks.add(normal(scenario.task))
                kept.append(scenario)
            else:
                rejected.append(Rejected(task=scenario.task, reason=reason, source=scenario.source))
        return kept, rejected

    def __len__(self) -> int:
        """Return how many distinct calls were checked."""
        return len(self._refusals)

    async def _try_out(self, calls: dict[str, PlannedCall]) -> None:
        """Make every new call, a few at once. A call that breaks its session does not affect the others."""
        waiting = [(key, call) for key, call in reversed(calls.items()) if key not in self._refusals]
        for key, call in list(waiting):
            if (refusal := self._without_server(call)) is not None:
                self._refusals[key] = refusal or None
                waiting.remove((key, call))

        async def worker() -> None:
            while waiting:
                async with self.sessions.open() as session:
                    while waiting and session.fault is None:
                        key, call = waiting.pop()
                        self._refusals[key] = await _refusal(session, call)

        results = await asyncio.gather(
            *(worker() for _ in range(min(_CONCURRENT_SESSIONS, len(waiting)))), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _without_server(self, call: PlannedCall) -> str | None:
        """Check a call without the server.

        Returns:
            The reason to reject it, the empty text to accept it without a call, or None if it must be tried.
        """
        tool = self.catalog.tool(call.tool)
        if tool is None:
            return f"it needs the tool {call.tool!r}, which the agent does not have"
        if (refused := refuse_arguments(tool, call.arguments)) is not None:
            return f"{tool.name} refuses {json.dumps(call.arguments)}: {refused}"
        return "" if tool.destructive else None


async def _refusal(session: Session, call: PlannedCall) -> str | None:
    try:
        answer = await session.call(call.tool, call.arguments)
    except McpServerError as broken:
        return f"{call.tool} ended the session: {str(broken)[:_SHOWN_CHARS]}"
    return f"{call.tool} says: {answer.text[:_SHOWN_CHARS]}" if answer.is_error else None


def _key(call: PlannedCall) -> str:
    return json.dumps([call.tool, call.arguments], sort_keys=True, default=str)
