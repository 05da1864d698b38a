"""`woodshed export-traces` and `woodshed from-traces`: a run's rollouts for other tools, and other tools' for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from woodshed.traces.read import Format


def export_traces(
    run: Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")],
    to: Annotated[
        str, typer.Option(help="File (.jsonl; for atif also .json or a folder), or an OTLP server.", metavar="FILE|URL")
    ],
    format: Annotated[Format, typer.Option(help="What to write.")],
    step: Annotated[
        str | None,
        typer.Option(
            help="One step, 1 is the first, or an evaluation: before, after, after-step-4.", show_default="all steps"
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="Only the best rollout of each judged group.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a run's rollouts for other tools. The run is only read; it may be running.

    \b
    woodshed export-traces runs/support --format atif --to support.jsonl
    woodshed export-traces runs/support --format openinference --to http://127.0.0.1:6006 --step 12
    woodshed export-traces runs/support --format messages --to talks.jsonl --best

    atif: one trajectory of ATIF 1.8 for each rollout, with token ids, log-probabilities, rewards, tool calls and their
    results, and sub-agents. openinference: spans for Phoenix, Langfuse, LangSmith or any OTLP server; its key goes into
    OTEL_EXPORTER_OTLP_HEADERS. messages: lines of OpenAI messages and tools, as `woodshed sft` reads them.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.traces.export import export_traces

    done = export_traces(run, to, format, step=step, best=best, overwrite=overwrite)
    what = {Format.atif: "trajectories", Format.openinference: "spans", Format.messages: "conversations"}[format]
    _say([f"{done.written} {what} of {done.rollouts} rollouts: {done.to}", *done.notes.lines()])


def from_traces(
    source: Annotated[Path, typer.Argument(help="File or folder of traces.", metavar="FILE")],
    to: Annotated[
        Path | None, typer.Option(help="Folder to write into.", show_default="FILE's name, here", metavar="FOLDER")
    ] = None,
    format: Annotated[
        Format | None, typer.Option(help="Format of the file.", show_default="recognised by the content")
    ] = None,
    for_mcp: Annotated[
        bool, typer.Option("--for-mcp", help="Write scenarios as `woodshed mcp` reads them: the task alone.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Make scenarios and conversations of traces: ATIF, spans of OpenInference (JSON), or OpenAI messages.

    \b
    woodshed from-traces production.jsonl --to traces
    woodshed sft traces/talks.jsonl --model Qwen/Qwen3-0.6B
    woodshed.traces.scenarios("traces/scenarios.jsonl")     in the file that `woodshed train` runs

    A scenario is how a trace began: the system's and the user's first messages, and the tools. A conversation has every
    whole answer in it. Lines that cannot be read are named and left out, and the rest is kept.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.traces.learn import SCENARIOS, TALKS, from_traces

    done = from_traces(source, to or Path(source.stem or "traces"), format=format, for_mcp=for_mcp, overwrite=overwrite)
    found = ", ".join(f"{count} {name}" for name, count in done.read.formats.items())
    again = f" ({done.repeated} more began like one of them)" if done.repeated else ""
    _say(
        [
            f"read {len(done.read.traces)} traces ({found})",
            f"{done.scenarios} scenarios{again}: {done.folder / SCENARIOS}" if done.scenarios else "no scenario",
            f"{done.talks} conversations: {done.folder / TALKS}" if done.talks else "no conversation for SFT",
            *done.read.notes.lines(),
        ]
    )


def _say(lines: list[str]) -> None:
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, highlight=False)
