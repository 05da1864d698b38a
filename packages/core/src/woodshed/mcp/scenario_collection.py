"""Server → scenarios: asked, generated, tried out, split and kept in a file that may be edited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from woodshed.errors import ConfigError
from woodshed.mcp import generator, grammar
from woodshed.mcp.catalog import Catalog, read_catalog
from woodshed.mcp.dry_run import DryRun
from woodshed.mcp.generator import Generator
from woodshed.mcp.scenario import (
    HeldOut,
    Rejected,
    Scenario,
    check_held_out,
    load,
    load_rejected,
    of_split,
    save,
    split,
)
from woodshed.mcp.sdk import McpError
from woodshed.mcp.server import Limits, Server
from woodshed.mcp.session import Sessions

SCENARIOS, REJECTED = "scenarios.jsonl", "rejected.jsonl"
_AT_ONCE = 8
"""Sentences the server is asked for at the same time."""
Say = Callable[[str], None]


def _quiet(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Scenarios of one server."""

    catalog: Catalog
    scenarios: tuple[Scenario, ...]
    rejected: tuple[Rejected, ...] = ()
    generated: int
    """How many were made in all, kept and rejected; for files that were there already, how many they hold."""
    reused: bool = False

    @property
    def train(self) -> list[Scenario]:
        """What is practised on."""
        return of_split(self.scenarios, "train")

    @property
    def held_out(self) -> list[Scenario]:
        """What no training sees."""
        return of_split(self.scenarios, "held_out")


def scenarios(
    server: str | Sequence[str] | Server,
    *,
    count: int = 100,
    generator: Generator | None = None,
    tools: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    held_out: HeldOut = 0.25,
    seed: int = 0,
    folder: Path | str | None = None,
    limits: Limits | None = None,
) -> Collection:
    """Return scenarios for an MCP server: generated, tried out and split; those in `folder` are used again.

    Args:
        server: its address or command, or a `Server`.
        count: how many are wanted.
        generator: model that writes them; without one the server's prompts and schemas are a grammar.
        tools: names of the tools to practise with; None takes all that only read.
        allow: tools that change something and may be used all the same.
        held_out: share that is held out, or a rule that says of a scenario whether it is.
        seed: decides what is drawn and held out.
        folder: where `scenarios.jsonl` and `rejected.jsonl` are kept.
        limits: how long the server is waited for.

    Raises:
        McpServerError: the server cannot be used.
        ConfigError: nothing can be generated, or the file in `folder` cannot be read.

    Example:
        ```python
        found = woodshed.mcp.scenarios("python my_server.py", generator=woodshed.mcp.Generator("gpt-5-mini"))
        print(len(found.train), len(found.held_out), [r.reason for r in found.rejected])
        ```
    """
    sessions = Sessions(server=Server.of(server), limits=limits or Limits())
    return asyncio.run(
        scenarios_async(
            sessions, count=count, generator=generator, tools=tools, allow=allow, held_out=held_out, seed=seed,
            folder=None if folder is None else Path(folder),
        )
    )  # fmt: skip


async def scenarios_async(
    sessions: Sessions,
    *,
    count: int = 100,
    generator: Generator | None = None,
    tools: Sequence[str] | None = None,
    allow: Sequence[str] = (),
    held_out: HeldOut = 0.25,
    seed: int = 0,
    folder: Path | None = None,
    say: Say = _quiet,
) -> Collection:
    """Do what `scenarios` does inside an event loop that is already there, and say how it goes."""
    check_held_out(held_out)
    catalog = await read_catalog(sessions, tools=tools, allow=allow)
    say(f"{catalog.name}: {catalog.listed} tools, {len(catalog.tools)} taken; {len(catalog.prompts)} prompts, "
        f"{len(catalog.resources)} resources read")  # fmt: skip
    path = folder / SCENARIOS if folder is not None else None
    if folder is not None and path is not None and path.exists():
        kept, others = load(path), load_rejected(folder / REJECTED)
        say(f"{len(kept)} scenarios from {path} (delete it to have them made anew)")
        if helpless := [s for s in kept if any(catalog.tool(call.tool) is None for call in s.calls)]:
            missing = sorted({call.tool for s in helpless for call in s.calls if catalog.tool(call.tool) is None})
            say(f"{len(helpless)} of them need tools that the agent is not offered this time: {', '.join(missing)}")
        return Collection(
            catalog=catalog,
            scenarios=tuple(kept),
            rejected=tuple(others),
            generated=len(kept) + len(others),
            reused=True,
        )
    found, rejected = await _generated(sessions, catalog, count, generator, seed, say)
    parted = split(found, held_out=held_out, seed=seed)
    if folder is not None:
        save(folder / SCENARIOS, parted)
        save(folder / REJECTED, rejected)
    return Collection(
        catalog=catalog, scenarios=tuple(parted), rejected=tuple(rejected), generated=len(found) + len(rejected)
    )


async def _generated(
    sessions: Sessions, catalog: Catalog, count: int, model: Generator | None, seed: int, say: Say
) -> tuple[list[Scenario], list[Rejected]]:
    dry_run = DryRun(sessions=sessions, catalog=catalog)
    if model is not None:
        say(f"{model.model} writes scenarios")
        found, rejected = await generator.generate(model, catalog, dry_run, count=count, say=say)
    else:
        say("scenarios from the server's own prompts and schemas (no generator model)")
        found, rejected = await _from_grammar(sessions, catalog, dry_run, count, seed)
    say(f"{len(found)} scenarios kept, {len(rejected)} rejected, {len(dry_run)} tool calls tried out")
    if len(found) < 2:
        reasons = "\n".join(f"  {r.task[:80]}: {r.reason}" for r in rejected[:10])
        raise ConfigError(
            f"only {len(found)} scenarios can be had from {catalog.place!r}; expected at least 2. "
            "Name a generator model "
            '(`--generator MODEL`), or write tasks by hand into scenarios.jsonl, one object with a "task" a line:\n'
            + reasons
        )
    return found, rejected


async def _from_grammar(
    sessions: Sessions, catalog: Catalog, dry_run: DryRun, count: int, seed: int
) -> tuple[list[Scenario], list[Rejected]]:
    async with sessions.open() as session:

        async def ask(prompt: str, arguments: dict[str, str]) -> str:
            try:
                reply = await session.ask(session.client.get_prompt(prompt, arguments))
            except (McpError, TimeoutError) as error:
                raise grammar.PromptRefused(str(error) or "no answer in time") from error
            texts = [m.content.text for m in reply.messages if m.role == "user" and m.content.type == "text"]
            return "\n".join(texts)

        writers, rejected = grammar.plan(catalog, ask, seed=seed)
        kept: list[Scenario] = []
        while writers and len(kept) < count:
            wanted = count - len(kept)
            made, refused = await _written(writers[:wanted])
            writers = writers[wanted:]
            good, bad = await dry_run.sift(made)
            kept += good
            rejected += [*refused, *bad]
    return kept, rejected


async def _written(writers: Sequence[grammar.Writer]) -> tuple[list[Scenario], list[Rejected]]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def write(writer: grammar.Writer) -> Scenario | Rejected:
        try:
            async with slots:
                return await writer()
        except grammar.PromptRefused as refusal:
            return Rejected(task="a prompt of the server", reason=str(refusal))

    done = await asyncio.gather(*(write(writer) for writer in writers))
    return [d for d in done if isinstance(d, Scenario)], [d for d in done if isinstance(d, Rejected)]
