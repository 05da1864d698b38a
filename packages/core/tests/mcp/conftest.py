"""One shop and one hostile server over HTTP for all tests: what happens in one session is not seen in another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mcp_servers import hostile, over_http, shop


@pytest.fixture(scope="session")
def shop_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with over_http(shop(tmp_path_factory.mktemp("shop"))) as url:
        yield url


@pytest.fixture(scope="session")
def hostile_url() -> Iterator[str]:
    with over_http(hostile("--fail", "--hang", "--flood", "--change", "--invalid")) as url:
        yield url
