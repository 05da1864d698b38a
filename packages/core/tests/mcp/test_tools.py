"""An agent is offered the tools that are safe, usable and chosen; each of the others is left out with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import types

from woodshed.errors import ConfigError, McpServerError
from woodshed.mcp import Limits, Server, Sessions
from woodshed.mcp.catalog import DEFAULT_INSTRUCTIONS, read_catalog
from woodshed.mcp.tools import check_schema, choose, refuse_arguments, to_tool, without_titles

ANY: dict[str, Any] = {"type": "object", "properties": {}}


def listed(name: str, description: str = "", schema: Any = None, **hints: bool) -> types.Tool:
    """A tool as a server lists it."""
    return types.Tool(
        name=name,
        description=description,
        inputSchema=ANY if schema is None else schema,
        annotations=types.ToolAnnotations(**hints) if hints else None,
    )


def chosen(*tools: types.Tool, **options: Any) -> tuple[list[str], dict[str, str]]:
    """Names of the tools that are taken, and the reasons of the others."""
    taken, left = choose(tools, **{"names": None, "allow": (), "most": 64, "place": "here", **options})
    return [t.name for t in taken], {out.name: out.reason for out in left}


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        (listed("get_order"), None),
        (listed("list_files", "Returns the updated list of removed files."), None),
        (listed("delete_order"), "its name says 'delete'"),
        (listed("deleteOrder"), "its name says 'delete'"),
        (listed("booking", "Cancels an order."), "its description begins with 'cancel'"),
        (listed("git_commit", "Records changes."), "its name says 'commit'"),
        (listed("order", ""), "its name says 'order'"),
        (listed("get_order", readOnlyHint=False), "readOnlyHint=false"),
        (listed("get_order", destructiveHint=True), "destructiveHint=true"),
        (listed("get_order", readOnlyHint=True, destructiveHint=True), "both read-only and destructive"),
        (listed("run_query", readOnlyHint=True), None),
        (listed("update_view", destructiveHint=False), None),
        (listed("get_order", idempotentHint=True), None),
        (listed("write_file", idempotentHint=True), "its name says 'write'"),
    ],
)
def test_a_tool_looks_destructive_by_its_hints_and_else_by_its_words(tool: types.Tool, why: str | None) -> None:
    found = to_tool(tool).destructive

    assert found == why if why is None else why in (found or "")


def test_a_destructive_tool_is_left_out_until_it_is_allowed_by_name() -> None:
    tools = (listed("look"), listed("refund_order"))

    names, reasons = chosen(*tools)

    assert names == ["look"]
    assert reasons["refund_order"].endswith("allow it with --allow-tool refund_order")
    assert chosen(*tools, allow=["refund_order"])[0] == ["look", "refund_order"]
    assert chosen(*tools, names=["look", "refund_order"])[0] == ["look"]


def test_a_schema_that_is_no_json_schema_leaves_its_tool_out_and_keeps_the_others() -> None:
    names, reasons = chosen(listed("odd", schema={"properties": {"x": {"type": "sometimes"}}}), listed("look"))

    assert names == ["look"]
    assert "not valid JSON Schema: at properties/x/type: 'sometimes' is not" in reasons["odd"]


@pytest.mark.parametrize("schema", [{"type": "array"}, {"type": "object", "properties": []}])
def test_a_schema_of_something_else_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="its schema"):
        check_schema(schema)


def test_a_name_that_no_function_may_have_leaves_its_tool_out() -> None:
    names, reasons = chosen(listed("files.read"), listed("look"))

    assert names == ["look"]
    assert "cannot be a function's" in reasons["files.read"]


def test_of_500_tools_the_first_are_taken_and_the_way_to_choose_is_said() -> None:
    tools = [listed(f"look_{n}") for n in range(500)]

    names, reasons = chosen(*tools)

    assert names == [f"look_{n}" for n in range(64)]
    assert len(reasons) == 436
    assert reasons["look_499"].startswith("only the first 64 tools are taken; choose with --tools")
    assert chosen(*tools, names=["look_499"])[0] == ["look_499"]


def test_a_name_that_is_not_listed_is_refused_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"--tools names 'look_u', which 'here' does not list; it has look_up"):
        chosen(listed("look_up"), names=["look_u"])
    with pytest.raises(ConfigError, match="--allow-tool names 'refund'"):
        chosen(listed("look_up"), allow=["refund"])


def test_a_server_without_tools_is_refused() -> None:
    with pytest.raises(McpServerError, match="lists no tools"):
        chosen()


def test_a_server_of_destructive_tools_alone_says_how_to_allow_them() -> None:
    with pytest.raises(ConfigError, match=r"none of the 1 tools of 'here' can be used:\n  drop_all: looks destructive"):
        chosen(listed("drop_all"))


def test_titles_go_and_a_property_called_title_stays() -> None:
    text = {"type": "string", "enum": ["title"]}
    schema = {"title": "A", "properties": {"title": {"title": "T", **text}, "default": {"title": "D", **text}}}

    assert without_titles(schema) == {"properties": {"title": text, "default": text}}


def test_arguments_are_held_to_the_schema() -> None:
    tool = to_tool(listed("t", schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}))

    assert refuse_arguments(tool, {"n": 1}) is None
    assert refuse_arguments(tool, {"n": "1"}) == "'1' is not of type 'integer'"
    assert refuse_arguments(tool, {}) == "'n' is a required property"


async def test_everything_that_a_server_offers_is_read(shop_url: str) -> None:
    catalog = await read_catalog(Sessions(server=Server.of(shop_url)))

    assert (catalog.name, catalog.listed) == ("music-shop", 7)
    assert [t.name for t in catalog.tools] == ["get_price", "get_stock", "get_delivery", "list_orders"]
    assert {out.name for out in catalog.left_out} == {"place_order", "cancel_order", "refund_order"}
    assert catalog.instructions == "You are the clerk of a music shop. Look it up, then answer."
    assert (catalog.prompts[0].name, catalog.prompts[0].slots) == ("get_price_0", ("item", "currency"))
    assert catalog.prompts[0].values == {"currency": ("EUR", "USD")}
    assert [(r.name, r.uri) for r in catalog.resources] == [("items", "shop://items")]


async def test_a_bare_server_gets_a_short_default_prompt_and_its_invalid_tool_is_named(hostile_url: str) -> None:
    catalog = await read_catalog(Sessions(server=Server.of(hostile_url), limits=Limits(call_s=5)))

    assert catalog.instructions == DEFAULT_INSTRUCTIONS
    assert [t.name for t in catalog.tools] == ["echo", "fail", "hang", "flood", "change"]
    assert [(out.name, "not valid JSON Schema" in out.reason) for out in catalog.left_out] == [("odd", True)]
