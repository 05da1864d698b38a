"""Traces → what can be learned from them: a file of scenarios to practise, and a file of conversations for SFT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from woodshed.errors import ConfigError
from woodshed.mcp import scenario as mcp_scenario
from woodshed.traces.conversation import Trace, media_of
from woodshed.traces.files import json_line, refuse_existing, written
from woodshed.traces.messages import talks, why_no_talk
from woodshed.traces.read import Format, Read, read_traces
from woodshed.traces.scenario import Scenario, distinct, line_of, scenario_of

SCENARIOS, TALKS = "scenarios.jsonl", "talks.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What was written, and what was read for it."""

    read: Read
    folder: Path
    scenarios: int
    repeated: int
    """Traces that began as another one."""
    talks: int


def from_traces(
    source: Path | str,
    to: Path | str,
    *,
    format: Format | str | None = None,
    for_mcp: bool = False,
    overwrite: bool = False,
) -> Learned:
    """Write `scenarios.jsonl` and `talks.jsonl` of the traces in a file.

    Args:
        source: A file or folder of ATIF, of spans, or of lines of OpenAI messages.
        to: The folder to write into. A file that nothing is written to is not made.
        format: The format; None recognises it by the content.
        for_mcp: Write scenarios as `woodshed mcp` reads them: the task alone, a quarter of them held out.
        overwrite: Replace files that are there.

    Raises:
        ConfigError: nothing can be read, or a file is there already.
        StorageError: a file cannot be written.
    """
    source, to = Path(source), Path(to)
    for name in (SCENARIOS, TALKS):
        refuse_existing(to / name, overwrite=overwrite)
    read = read_traces(source, format)
    begun = [s for trace in read.traces if (s := _scenario(trace, source, read)) is not None]
    scenarios = distinct(begun)
    lines = [line for trace in read.traces for line in _talks(trace, read)]
    if not scenarios and not lines:
        reasons = "".join(f"\n  {line}" for line in read.notes.lines())
        raise ConfigError(
            f"{len(read.traces)} traces were read from {str(source)!r}, but there is nothing to practise or to "
            f"learn in them:{reasons}\nExpected a user's message for a scenario, or a model's answer for a conversation"
        )
    if scenarios:
        _write_scenarios(to / SCENARIOS, scenarios, for_mcp=for_mcp, overwrite=overwrite)
    if lines:
        with written(to / TALKS, overwrite=overwrite) as file:
            file.writelines(map(json_line, lines))
    return Learned(
        read=read, folder=to, scenarios=len(scenarios), repeated=len(begun) - len(scenarios), talks=len(lines)
    )


def _scenario(trace: Trace, source: Path, read: Read) -> Scenario | None:
    scenario = scenario_of(trace, f"{source.name}, {trace.place}")
    if scenario is None:
        read.notes.skip(trace.place, "no scenario: no message of a user comes before the first answer")
    elif media := media_of(scenario.messages):
        read.notes.ignore(trace.place, [f"scenario kept with {', '.join(media)}: an engine serves text only"])
    return scenario


def _talks(trace: Trace, read: Read) -> list[dict[str, object]]:
    if (reason := why_no_talk(trace)) is not None:
        read.notes.skip(trace.place, f"no conversation for SFT: {reason}")
    return list(talks(trace)) if trace.is_whole else []


def _write_scenarios(path: Path, scenarios: Iterable[Scenario], *, for_mcp: bool, overwrite: bool) -> None:
    if not for_mcp:
        with written(path, overwrite=overwrite) as file:
            file.writelines(json_line(line_of(scenario)) for scenario in scenarios)
        return
    tasks = {s.task: mcp_scenario.scenario(s.task, source=s.source) for s in scenarios if s.task.strip()}
    unique = {task.id: task for task in tasks.values()}
    split = mcp_scenario.split(list(unique.values()), held_out=0.25, seed=0)
    with written(path, overwrite=overwrite) as file:
        file.writelines(json_line(task.model_dump(mode="json")) for task in split)
