"""Run → file or server: its rollouts as ATIF, as OpenInference spans or as OpenAI messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from woodshed import __version__
from woodshed.errors import ConfigError
from woodshed.traces.conversation import Trace
from woodshed.traces.files import json_line, refuse_existing, written
from woodshed.traces.messages import talks, why_no_talk
from woodshed.traces.notes import Notes
from woodshed.traces.of_trajectory import of_trajectory
from woodshed.traces.read import Format
from woodshed.traces.stored import StoredRollout, StoredRun, stored_rollouts, stored_run

_LINES = {".jsonl", ".ndjson"}


@dataclass(kw_only=True, slots=True)
class Exported:
    """What an export wrote."""

    to: str
    rollouts: int = 0
    written: int = 0
    """Trajectories, spans or lines of messages."""
    notes: Notes = field(default_factory=Notes)
    """Rollouts that were left out, and why."""


def export_traces(
    run: Path | str,
    to: Path | str,
    format: Format | str,
    *,
    step: int | str | None = None,
    best: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write the rollouts of a run.

    Args:
        run: The run's folder; it is only read.
        to: A file, a folder (for ATIF: one file for each rollout), or the address of an OTLP server.
        format: `atif`, `openinference` or `messages`.
        step: Number of a step, from 1, or `before`, `after`, `after-step-4` for an evaluation; None is every step.
        best: Only the best rollout of each judged group whose scores differ.
        overwrite: Replace a file that is there.

    Raises:
        ConfigError: there is no such run or rollout, the target does not fit the format, or an extra is missing.
        TraceServerError: the server does not take the spans.
        StorageError: the file cannot be written.
    """
    source = stored_run(Path(run))
    exported = Exported(to=str(to))
    rollouts = stored_rollouts(source, step=None if step is None else str(step), best=best)
    traces = _traces(rollouts, exported)
    match Format(format):
        case Format.atif:
            _write_atif(source, traces, exported, overwrite)
        case Format.openinference:
            _write_spans(source, traces, exported, overwrite)
        case Format.messages:
            _write_messages(traces, exported, overwrite)
    return exported


def _traces(rollouts: Iterable[StoredRollout], exported: Exported) -> Iterator[tuple[StoredRollout, Trace]]:
    for rollout in rollouts:
        exported.rollouts += 1
        trace = of_trajectory(rollout.trajectory, score=rollout.score, slot=rollout.slot)
        if not trace.calls:
            exported.notes.skip(rollout.slot, "the rollout has no model call")
            continue
        yield rollout, trace


_Traces = Iterator[tuple[StoredRollout, Trace]]


def _write_atif(source: StoredRun, traces: _Traces, exported: Exported, overwrite: bool) -> None:
    from woodshed.traces.atif_models import Trajectory
    from woodshed.traces.to_atif import to_atif

    def documents() -> Iterator[tuple[str, dict[str, Any]]]:
        for rollout, trace in traces:
            if not trace.conversations:
                exported.notes.skip(rollout.slot, "no model call of the rollout was answered")
                continue
            document = to_atif(
                trace, agent=source.agent, version=f"woodshed {__version__}", model=source.model
            ).to_json_dict()
            Trajectory.model_validate(document)
            exported.written += 1
            yield rollout.slot, document

    to = _file(exported.to, Format.atif)
    if to.suffix == ".json":
        _write_one(to, documents(), overwrite)
    elif to.suffix in _LINES:
        _write_lines(to, (document for _, document in documents()), overwrite)
    elif to.suffix:
        raise ConfigError(f"{exported.to!r} ends in {to.suffix!r}; expected .jsonl, .json for one rollout, or a folder")
    else:
        for slot, document in documents():
            with written(to / f"{slot.replace('/', '-')}.json", overwrite=overwrite) as file:
                file.write(json_line(document))


def _write_one(to: Path, documents: Iterator[tuple[str, dict[str, Any]]], overwrite: bool) -> None:
    refuse_existing(to, overwrite=overwrite)
    first, second = next(documents, None), next(documents, None)
    if second is not None:
        raise ConfigError(
            f"{str(to)!r} would hold several trajectories, and a .json file of ATIF holds one. Name a .jsonl "
            "file, or a folder"
        )
    _write_lines(to, [] if first is None else [first[1]], overwrite)


def _write_messages(traces: _Traces, exported: Exported, overwrite: bool) -> None:
    def lines() -> Iterator[dict[str, Any]]:
        for rollout, trace in traces:
            if (reason := why_no_talk(trace)) is not None:
                exported.notes.skip(rollout.slot, reason)
                continue
            for talk in talks(trace):
                exported.written += 1
                yield talk

    _write_lines(_lines_file(exported.to, Format.messages), lines(), overwrite)


def _write_spans(source: StoredRun, traces: _Traces, exported: Exported, overwrite: bool) -> None:
    from woodshed.traces.otlp import Sender, otlp_json
    from woodshed.traces.to_spans import to_spans

    def spans() -> Iterator[Any]:
        for rollout, trace in traces:
            session = f"{source.folder.resolve().name}/{rollout.group}"
            made = to_spans(trace, agent=source.agent, model=source.model, session=session)
            yield made
            exported.written += len(made)

    if exported.to.startswith(("http://", "https://")):
        with closing(Sender(exported.to)) as sender:
            exported.to = sender.url
            for made in spans():
                sender.send(made)
    else:
        _write_lines(_lines_file(exported.to, Format.openinference), map(otlp_json, spans()), overwrite)


def _write_lines(to: Path, values: Iterable[Any], overwrite: bool) -> None:
    with written(to, overwrite=overwrite) as file:
        for value in values:
            file.write(json_line(value))


def _file(to: str, format: Format) -> Path:
    if "://" in to:
        raise ConfigError(
            f"{to!r} is an address, and {format.value} is written to a file; only openinference is sent to a server, "
            "over HTTP"
        )
    return Path(to)


def _lines_file(to: str, format: Format) -> Path:
    path = _file(to, format)
    if path.suffix not in _LINES:
        raise ConfigError(f"{to!r} is no .jsonl file; expected one for {format.value}, which is written line by line")
    return path
