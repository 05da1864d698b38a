"""What the tests of rollout workers share: a run without an engine process, in this process or in workers."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import woodshed
from woodshed.capture import new_id, rollout
from woodshed.engine import EngineClient
from woodshed.testing.engine import ScriptedEngine
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.rollouts.ray_pool import RayPool
from woodshed.training.rollouts.ray_workers import rollout_workers
from woodshed.training.run.store import RunStore
from woodshed.types import OpenSession, SealedSession, SessionGrant

HERE = str(Path(__file__).parent)


class ScriptedClient(EngineClient):
    """A client of a scripted engine, which has sessions and no control plane."""

    def __init__(self, engine: ScriptedEngine) -> None:
        super().__init__(engine.base_url)
        self.engine = engine

    async def open_session(self, request: OpenSession) -> SessionGrant:
        secret = self.engine.sessions.open(request.rollout_id)
        return SessionGrant(rollout_id=request.rollout_id, secret=secret, base_url=self.engine.base_url, run_id="run")

    async def seal(self, rollout_id: str) -> SealedSession:
        return self.engine.seal(rollout_id)


class Listener:
    def rollouts_started(self, step: int, count: int) -> None: ...
    def rollout_done(self, step: int) -> None: ...
    def group_judged(self, step: int) -> None: ...


def a_context(
    folder: Path, engine: ScriptedEngine, function: Callable[..., Any], workers: RayPool | None, **settings: Any
) -> RunContext:
    return RunContext(
        function=rollout(function), client=ScriptedClient(engine), store=RunStore(folder),
        policy=woodshed.Policy("m"), policy_name="policy", config=woodshed.TrainConfig(**{"group_size": 2, **settings}),
        start_version=0, semaphore=PrioritySemaphore(64), workers=workers,
    )  # fmt: skip


@asynccontextmanager
async def in_workers(
    folder: Path, engine: ScriptedEngine, function: Callable[..., Any], *, said: list[str] | None = None,
    scenarios: Sequence[Any] = (), settings: dict[str, Any] | None = None, **workers: Any,
) -> AsyncIterator[RunContext]:  # fmt: skip
    """Yield a run's context whose agent runs in workers that know this folder's modules."""
    asked = woodshed.RayWorkers(**{"count": 1, "runtime_env": {"env_vars": {"PYTHONPATH": HERE}}, **workers})
    warned = said if said is not None else []
    async with rollout_workers(asked, rollout(function), scenarios, warned.append) as pool:
        await pool.reach(engine.base_url.removesuffix("/v1"))
        yield a_context(folder, engine, function, pool, **(settings or {}))


_VOLATILE = re.compile(r"[0-9a-f]{32}|scripted-[0-9a-f]+|call_[0-9a-f]{12}|\d+ rollouts are active|127\.0\.0\.1:\d+")


def rows(folder: Path) -> dict[str, list[Any]]:
    """Return all rows of a run's store, without ids, secrets, times and ports."""
    with closing(sqlite3.connect(folder / "run.sqlite")) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        return {t: sorted((_same(row) for row in db.execute(f"SELECT * FROM {t}")), key=str) for t in tables}


def _same(row: tuple[Any, ...]) -> list[Any]:
    return [_timeless(_json(_VOLATILE.sub("ID", value) if isinstance(value, str) else value)) for value in row]


def _json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: "TIME" if k in ("started_s", "latency_s") else _timeless(v) for k, v in value.items()}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def fresh(folder: Path) -> Path:
    return folder / new_id()
