"""The page's side of the API, and a check that looking changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from woodshed.view.reader import RunReader
from woodshed.view.server import app

SECRET = "the-secret"


class Client:
    """The page's side of the API."""

    def __init__(self, *folders: Path, base: str = "http://127.0.0.1:1234") -> None:
        self._transport = httpx.ASGITransport(app([RunReader(f) for f in folders], SECRET))
        self._base = base

    async def raw(self, path: str, *, method: str = "GET", **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=self._transport, base_url=self._base) as client:
            return await client.request(method, path, **more)

    async def get(self, path: str, **query: str | int) -> Any:
        text = "&".join(f"{k}={quote(str(v), safe='')}" for k, v in query.items())
        response = await self.raw(f"/{SECRET}/api/{path}?{text}")
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Check that the block changes no file of a folder."""
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    yield
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}
    assert after == before
