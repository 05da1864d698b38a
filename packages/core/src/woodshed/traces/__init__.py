"""Traces out and in: a run's rollouts as ATIF, OpenInference spans or OpenAI messages, and all of these back.

Names are imported on first use (docs/decisions/0003-lazy-public-face.md), and with them the optional packages of
`woodshed[atif]` and `woodshed[otel]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from woodshed.lazy import on_first_use

if TYPE_CHECKING:
    from woodshed.traces.conversation import Conversation, Trace, Turn
    from woodshed.traces.export import Exported, export_traces
    from woodshed.traces.learn import Learned, from_traces
    from woodshed.traces.notes import Notes
    from woodshed.traces.read import Format, Read, read_traces
    from woodshed.traces.scenario import Scenario, scenarios

_HOME = {
    # Out.
    "Exported": "export",
    "export_traces": "export",
    # In.
    "Conversation": "conversation",
    "Format": "read",
    "Learned": "learn",
    "Notes": "notes",
    "Read": "read",
    "Scenario": "scenario",
    "Trace": "conversation",
    "Turn": "conversation",
    "from_traces": "learn",
    "read_traces": "read",
    "scenarios": "scenario",
}

__all__ = [
    "Conversation",
    "Exported",
    "Format",
    "Learned",
    "Notes",
    "Read",
    "Scenario",
    "Trace",
    "Turn",
    "export_traces",
    "from_traces",
    "read_traces",
    "scenarios",
]


if not TYPE_CHECKING:  # which would take any name for one of this package
    __getattr__ = on_first_use(__name__, _HOME)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
