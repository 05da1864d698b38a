"""Server → scenarios: generate them, filter them by a dry run, split them, and store them in an editable file."""

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
from woodshed.training.event_loop import run_to_end

SCENARIOS, REJECTED = "scenarios.jsonl", "rejected.jsonl"
_CONCURRENT_PROMPTS = 8
"""Prompts requested from the server at the same time."""
OnMessage = Callable[[str], None]


def _quiet(_: str) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Scenarios of one server."""

    catalog: Catalog
    scenarios: tuple[Scenario, ...]
    rejected: tuple[Rejected, ...] = ()
    generated: int
    """Number of generated scenarios, kept and rejected; for reused files, the number they contain."""
    reused: bool = False
    """Whether they were read from files of an earlier run."""

    @property
    def train(self) -> list[Scenario]:
        """The scenarios for training."""
        return of_split(self.scenarios, "train")

    @property
    def held_out(self) -> list[Scenario]:
        """The held-out scenarios."""
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
    """Return scenarios for an MCP server: generated, filtered by a dry run and split. Those in `folder` are reused.

    Args:
        server: its address or command, or a `Server`.
        count: number of scenarios.
        generator: model that writes them; without one the server's prompts and schemas are used as templates.
        tools: names of the tools to use; None means all read-only tools.
        allow: tools to use although they change something.
        held_out: share to hold out, or a function that decides for each scenario.
        seed: seed of the selection and of the held-out split.
        folder: folder of `scenarios.jsonl` and `rejected.jsonl`.
        limits: time limits for the server.

    Raises:
        McpServerError: the server cannot be used.
        ConfigError: nothing can be generated, or the file in `folder` cannot be read.

    Example:
        ```python
        tasks = woodshed.mcp.scenarios("python my_server.py", generator=woodshed.mcp.Generator("gpt-5-mini"))
        print(len(tasks.train), len(tasks.held_out), [r.reason for r in tasks.rejected])
        ```
    """
    sessions = Sessions(server=Server.of(server), limits=limits or Limits())
    return run_to_end(
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
    on_message: OnMessage = _quiet,
) -> Collection:
    """Like `scenarios`, inside an existing event loop; `on_message` receives progress messages."""
    check_held_out(held_out)
    catalog = await read_catalog(sessions, tools=tools, allow=allow)
    on_message(f"{catalog.name}: {catalog.listed} tools, {len(catalog.tools)} taken; {len(catalog.prompts)} prompts, "
        f"{len(catalog.resources)} resources read")  # fmt: skip
    path = folder / SCENARIOS if folder is not None else None
    if folder is not None and path is not None and path.exists():
        kept, earlier_rejected = load(path), load_rejected(folder / REJECTED)
        on_message(f"{len(kept)} scenarios from {path} (delete it to generate new ones)")
        if unusable := [s for s in kept if any(catalog.tool(call.tool) is None for call in s.calls)]:
            missing = sorted({call.tool for s in unusable for call in s.calls if catalog.tool(call.tool) is None})
            on_message(
                f"{len(unusable)} of them need tools that the agent does not have this time: {', '.join(missing)}"
            )
        return Collection(
            catalog=catalog,
            scenarios=tuple(kept),
            rejected=tuple(earlier_rejected),
            generated=len(kept) + len(earlier_rejected),
            reused=True,
        )
    generated, rejected = await _generated(sessions, catalog, count, generator, seed, on_message)
    assigned = split(generated, held_out=held_out, seed=seed)
    if folder is not None:
        save(folder / SCENARIOS, assigned)
        save(folder / REJECTED, rejected)
    return Collection(
        catalog=catalog, scenarios=tuple(assigned), rejected=tuple(rejected), generated=len(generated) + len(rejected)
    )


async def _generated(
    sessions: Sessions, catalog: Catalog, count: int, model: Generator | None, seed: int, on_message: OnMessage
) -> tuple[list[Scenario], list[Rejected]]:
    dry_run = DryRun(sessions=sessions, catalog=catalog)
    if model is not None:
        on_message(f"{model.model} writes scenarios")
        kept, rejected = await generator.generate(model, catalog, dry_run, count=count, on_message=on_message)
    else:
        on_message("scenarios from the server's own prompts and schemas (no generator model)")
        kept, rejected = await _from_grammar(sessions, catalog, dry_run, count, seed)
    on_message(f"{len(kept)} scenarios kept, {len(rejected)} rejected, {len(dry_run)} tool calls tried")
    if len(kept) < 2:
        reasons = "\n".join(f"  {r.task[:80]}: {r.reason}" for r in rejected[:10])
        raise ConfigError(
            f"only {len(kept)} scenarios can be made for {catalog.place!r}; expected at least 2. "
            "Name a generator model "
            '(`--generator MODEL`), or write tasks by hand into scenarios.jsonl, one object with a "task" a line:\n'
            + reasons
        )
    return kept, rejected


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
            written, refused = await _written(writers[:wanted])
            writers = writers[wanted:]
            good, bad = await dry_run.filter(written)
            kept += good
            rejected += [*refused, *bad]
    return kept, rejected


async def _written(writers: Sequence[grammar.Writer]) -> tuple[list[Scenario], list[Rejected]]:
    semaphore = asyncio.Semaphore(_CONCURRENT_PROMPTS)

    async def write(writer: grammar.Writer) -> Scenario | Rejected:
        try:
            async with semaphore:
                return await writer()
        except grammar.PromptRefused as refusal:
            return Rejected(task="a prompt of the server", reason=str(refusal))

    results = await asyncio.gather(*(write(writer) for writer in writers))
    return [r for r in results if isinstance(r, Scenario)], [r for r in results if isinstance(r, Rejected)]
