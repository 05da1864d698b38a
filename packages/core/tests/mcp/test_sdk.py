"""Both major versions of the MCP SDK are one to the rooms above: the same answers, the same errors.

Run with each by `make matrix-mcp-1 matrix-mcp-2`; the servers here are of the version that is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import types
from mcp_servers import over_http

from woodshed.errors import McpServerError
from woodshed.mcp import Limits, Server, Sessions
from woodshed.mcp.catalog import read_catalog
from woodshed.mcp.sdk import field
from woodshed.mcp.tool_answer import to_answer

COMMAND = [sys.executable, str(Path(__file__).with_name("sdk_server.py"))]


@pytest.fixture(scope="module")
def sdk_url() -> Iterator[str]:
    with over_http(COMMAND) as url:
        yield url


def sessions(where: str | list[str]) -> Sessions:
    return Sessions(server=Server.of(where), limits=Limits(open_s=20, call_s=20))


@pytest.fixture(params=["stdio", "http"])
def opened(request: pytest.FixtureRequest) -> Sessions:
    return sessions(COMMAND if request.param == "stdio" else request.getfixturevalue("sdk_url"))


async def test_a_catalog_is_read_in_full(opened: Sessions) -> None:
    catalog = await read_catalog(opened)

    assert (catalog.name, catalog.instructions) == ("sdk", "Answer in numbers.")
    assert [tool.name for tool in catalog.tools] == ["total", "long_answer", "table"]
    assert catalog.tools[0].parameters == {
        "properties": {"one": {"type": "integer"}, "other": {"type": "integer"}},
        "required": ["one", "other"],
        "type": "object",
    }
    assert [(prompt.name, prompt.slots) for prompt in catalog.prompts] == [("ask_sum", ("one", "other"))]
    assert [(resource.uri, resource.text) for resource in catalog.resources] == [("sum://known", "1 and 1 are 2")]
    assert catalog.unreadable == ()


async def test_a_tool_answers_and_refuses_in_words(opened: Sessions) -> None:
    async with opened.open() as session:
        three = await session.call("total", {"one": 1, "other": 2})
        wrong = await session.call("total", {"one": "one"})
        nothing = await session.call("subtract", {})

    assert (three.text, three.is_error) == ("3", False)
    assert wrong.is_error and "other" in wrong.text
    assert nothing.is_error and "subtract" in nothing.text
    assert opened.tally.tool_errors == 2


async def test_an_answer_of_some_megabytes_is_cut_and_the_session_goes_on(opened: Sessions) -> None:
    async with opened.open() as session:
        long = await session.call("long_answer", {"chars": 3_000_000})
        after = await session.call("total", {"one": 1, "other": 1})

    assert long.cut_chars == 3_000_000 - Limits().result_chars
    assert not long.is_error
    assert after.text == "2"


@pytest.mark.parametrize(
    ("status", "said"), [(401, r"wants authorization \(HTTP 401"), (429, "HTTP 429"), (500, "failed with HTTP 500")]
)
async def test_a_refusal_over_http_is_said_with_its_status(sdk_url: str, status: int, said: str) -> None:
    with pytest.raises(McpServerError, match=said):
        async with sessions(sdk_url.replace("/mcp", f"/refused/{status}/mcp")).open():
            pass


def test_fields_go_by_their_names_on_the_wire() -> None:
    result = types.CallToolResult.model_validate({"content": [], "structuredContent": {"rows": 2}, "isError": True})
    image = types.ImageContent.model_validate({"type": "image", "data": "AAAA", "mimeType": "image/png"})

    assert field(result, "isError") is True
    assert field(image, "mimeType") == "image/png"
    assert to_answer(result, limit=99).text == '{"rows": 2}'
    result.content.append(image)
    assert to_answer(result, limit=99).text == "[image image/png, 4 characters of base64]"
