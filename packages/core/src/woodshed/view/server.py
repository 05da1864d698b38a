"""The page's server: plain JSON about one or more runs, events while they go on, and the page's own files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from woodshed.errors import WoodshedError
from woodshed.view import attempts, groups, held_out, in_progress, overview, tokens
from woodshed.view.guard import Guard
from woodshed.view.reader import RunReader, plain

_EVERY_S = 1.0
_SLICES = 5
"""Parts of a wait, so that it ends soon where the server is stopped."""
_KEEP_ALIVE_S = 15.0
_MOST_PER_PAGE = 200


class _Json(JSONResponse):
    """JSON that a browser never keeps; NaN becomes null."""

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def app(runs: Sequence[RunReader], secret: str, *, is_ending: Callable[[], bool] = lambda: False) -> Guard:
    """Return the application; every path begins with `/SECRET/`.

    Args:
        runs: The runs, by their number in the paths.
        secret: First part of every path.
        is_ending: Whether the server is being stopped; open streams of events then end.
    """

    def of(answer: Callable[[RunReader, Request], Any]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                number = int(request.path_params["run"])
                if number >= len(runs):
                    return _error(404, f"there is no run {number}; {len(runs)} are shown")
                return _Json(answer(runs[number], request), headers={"cache-control": "no-store"})
            except WoodshedError as error:
                return _error(404, str(error))
            except ValueError as error:
                return _error(400, str(error))

        return endpoint

    async def events(request: Request) -> Response:
        number = int(request.path_params["run"])
        if number >= len(runs):
            return _error(404, f"there is no run {number}; {len(runs)} are shown")
        return StreamingResponse(
            _events(runs[number], request, is_ending),
            media_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    def listed(request: Request) -> Response:
        return _Json([_listed(run) for run in runs], headers={"cache-control": "no-store"})

    api = [
        Route("/runs", listed),
        Route("/runs/{run:int}/overview", of(lambda run, _: overview.overview(run))),
        Route("/runs/{run:int}/steps", of(lambda run, q: groups.steps(run, **_page(q)))),
        Route("/runs/{run:int}/groups", of(_groups)),
        Route("/runs/{run:int}/group", of(lambda run, q: groups.group(run, _text(q, "id")))),
        Route("/runs/{run:int}/attempt", of(lambda run, q: attempts.attempt(run, _text(q, "slot")))),
        Route("/runs/{run:int}/tokens", of(lambda run, q: tokens.tokens(run, _text(q, "slot"), _text(q, "call")))),
        Route("/runs/{run:int}/scenarios", of(lambda run, q: held_out.scenarios(run, **_page(q)))),
        Route("/runs/{run:int}/scenario", of(lambda run, q: held_out.scenario(run, _text(q, "id")))),
        Route("/runs/{run:int}/in_progress", of(lambda run, _: in_progress.in_progress(run))),
        Route("/runs/{run:int}/events", events),
    ]
    page = StaticFiles(directory=str(page_folder()), html=True)
    return Guard(Starlette(routes=[Mount("/api", routes=api), Mount("/", app=page)]), secret)


def page_folder() -> Path:
    """Return the folder of the built page."""
    return Path(str(resources.files("woodshed.view") / "page"))


def _listed(run: RunReader) -> dict[str, Any]:
    try:
        with run.store() as store:
            return overview.heading(run, store, run.settings(), store.history())
    except WoodshedError as error:
        return {"name": run.name, "folder": str(run.folder), "error": str(error)}


def _groups(run: RunReader, request: Request) -> Any:
    step = _number(request, "step", 0)
    return groups.groups(run, step=step, sort=request.query_params.get("sort", "spread"), **_page(request))


def _page(request: Request) -> dict[str, int]:
    limit = min(_number(request, "limit", groups.PAGE), _MOST_PER_PAGE)
    return {"offset": _number(request, "offset", 0), "limit": limit}


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdigit() or len(text) > 9:
        raise ValueError(f"{name} is {text[:40]!r}; expected a whole number of 0 or more")
    return int(text)


def _text(request: Request, name: str) -> str:
    if not (text := request.query_params.get(name)):
        raise ValueError(f"{name} is missing; expected the {name} of what to show")
    return text


def _error(status: int, message: str) -> Response:
    return _Json({"error": message}, status_code=status, headers={"cache-control": "no-store"})


async def _events(run: RunReader, request: Request, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield an event whenever there is something new, until the page is closed or the server stopped."""
    last: Any = None
    quiet_s = 0.0
    while not (is_ending() or await request.is_disconnected()):
        try:
            now = await run_in_threadpool(overview.signature, run)
        except WoodshedError as error:
            yield f"event: problem\ndata: {json.dumps(str(error))}\n\n"
            now = None
        if now != last:
            yield f"data: {json.dumps(now)}\n\n"
            last, quiet_s = now, 0.0
        elif quiet_s >= _KEEP_ALIVE_S:
            yield ": still here\n\n"
            quiet_s = 0.0
        for _ in range(_SLICES):
            await asyncio.sleep(0 if is_ending() else _EVERY_S / _SLICES)
        quiet_s += _EVERY_S
