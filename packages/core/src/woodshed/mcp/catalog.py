"""What a server catalogs: its instructions, tools, prompts and resources, read once before anything else is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp import types
from pydantic import Field

from woodshed.errors import McpServerError
from woodshed.mcp.sdk import McpError, field
from woodshed.mcp.session import Session, Sessions
from woodshed.mcp.tool_answer import cut
from woodshed.mcp.tools import LeftOut, Tool, choose
from woodshed.mcp.transport import is_unknown_method
from woodshed.types import Record

DEFAULT_INSTRUCTIONS = "You are a helpful assistant. Use the tools to find out what you are asked, then answer."
_PAGES = 50
"""Most pages of a list that are read: a server may hand out the same cursor for ever."""
_RESOURCES = 20
"""Most resources that are read for the values in them."""
_RESOURCE_CHARS = 20_000


class Resource(Record):
    """A text that a server lets read."""

    name: str
    uri: str
    text: str
    """Its text, cut where it is long."""


class McpPrompt(Record):
    """A question that a server has ready, with slots."""

    name: str
    description: str = ""
    slots: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    """Those of the slots that may stay empty."""
    values: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """What the server itself would complete each slot with."""


class Catalog(Record):
    """Everything a scenario or an agent needs to know of a server."""

    place: str
    name: str
    version: str = ""
    protocol: str = ""
    instructions: str = DEFAULT_INSTRUCTIONS
    """The server's own instructions, or a short sentence where it has none: the agent's system prompt."""
    listed: int
    """How many tools the server lists."""
    tools: tuple[Tool, ...]
    left_out: tuple[LeftOut, ...] = ()
    prompts: tuple[McpPrompt, ...] = ()
    resources: tuple[Resource, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Prompts and resources that could not be read, with the reason."""

    def tool(self, name: str) -> Tool | None:
        """Return the tool of that name, if the agent has it."""
        return next((t for t in self.tools if t.name == name), None)


async def read_catalog(sessions: Sessions, *, tools: Sequence[str] | None = None, allow: Sequence[str] = ()) -> Catalog:
    """Return what the server catalogs, asked in a session of its own.

    Raises:
        McpServerError: the server cannot be used, or has no tools.
        ConfigError: a tool that was named does not exist, or none is left.
    """
    async with sessions.open() as session:
        hello = session.hello
        assert hello is not None
        able = hello.capabilities
        listed = await _tools(session, sessions.server.place) if able.tools else []
        taken, left = choose(
            listed, names=tools, allow=allow, most=sessions.limits.max_tools, place=sessions.server.place
        )
        silent: list[str] = []
        prompts = await _prompts(session, able.completions is not None, silent) if able.prompts else []
        resources = await _resources(session, silent) if able.resources else []
    return Catalog(
        place=sessions.server.place,
        name=field(hello, "serverInfo").name,
        version=field(hello, "serverInfo").version,
        protocol=str(field(hello, "protocolVersion")),
        instructions=(hello.instructions or "").strip() or DEFAULT_INSTRUCTIONS,
        listed=len(listed),
        tools=taken,
        left_out=left,
        prompts=tuple(prompts),
        resources=tuple(resources),
        unreadable=tuple(silent),
    )


async def _tools(session: Session, place: str) -> list[types.Tool]:
    try:
        return await _pages(session, session.client.list_tools, "tools")
    except TimeoutError:
        raise McpServerError(f"the server {place!r} did not list its tools in time") from None
    except McpError as error:
        raise McpServerError(f"the server {place!r} cannot list its tools: {error.error.message}") from error


async def _pages(session: Session, listing: Callable[..., Awaitable[Any]], key: str) -> list[Any]:
    listed: list[Any] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await session.ask(listing(params=types.PaginatedRequestParams(cursor=cursor)))
        listed += getattr(page, key)
        following = field(page, "nextCursor")
        if not following or following == cursor:
            break
        cursor = following
    return listed


async def _prompts(session: Session, completes: bool, silent: list[str]) -> list[McpPrompt]:
    prompts = []
    for prompt in await _optional(session, session.client.list_prompts, "prompts", silent):
        arguments = prompt.arguments or []
        values = {a.name: await _completions(session, prompt.name, a.name) for a in arguments} if completes else {}
        prompts.append(
            McpPrompt(
                name=prompt.name,
                description=prompt.description or "",
                slots=tuple(a.name for a in arguments),
                optional=tuple(a.name for a in arguments if not a.required),
                values={slot: given for slot, given in values.items() if given},
            )
        )
    return prompts


async def _completions(session: Session, prompt: str, slot: str) -> tuple[str, ...]:
    reference = types.PromptReference(type="ref/prompt", name=prompt)
    try:
        reply = await session.ask(session.client.complete(reference, {"name": slot, "value": ""}))
    except (McpError, TimeoutError):
        return ()  # Completions are a help; a prompt whose slots they cannot fill may be filled otherwise.
    return tuple(reply.completion.values)


async def _resources(session: Session, silent: list[str]) -> list[Resource]:
    resources = []
    for resource in (await _optional(session, session.client.list_resources, "resources", silent))[:_RESOURCES]:
        try:
            reply = await session.ask(session.client.read_resource(resource.uri))
        except (McpError, TimeoutError) as error:
            silent.append(f"resource {resource.uri}: {error or 'no answer in time'}")
            continue
        text = "\n".join(part.text for part in reply.contents if isinstance(part, types.TextResourceContents))
        if text:
            resources.append(
                Resource(
                    name=resource.name,
                    uri=str(resource.uri),
                    text=cut(text, _RESOURCE_CHARS),
                )
            )
    return resources


async def _optional(session: Session, listing: Callable[..., Awaitable[Any]], key: str, silent: list[str]) -> list[Any]:
    """Return a list that an agent can do without; what keeps it away is noted."""
    try:
        return await _pages(session, listing, key)
    except (McpError, TimeoutError) as error:
        if not is_unknown_method(error):
            silent.append(f"the list of {key}: {error or 'no answer in time'}")
        return []
