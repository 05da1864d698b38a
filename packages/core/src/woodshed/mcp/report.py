"""The report of a run on an MCP server: `summary.json` and `report.md`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from woodshed.mcp.comparison import Comparison, Pair
from woodshed.mcp.scenario_collection import Collection
from woodshed.mcp.session import Tally
from woodshed.rewards.transcript import histories, render_messages
from woodshed.training.report.interval import success_text
from woodshed.training.report.summary import Summary
from woodshed.types import Trajectory

_EXAMPLES = 3
_EXAMPLE_CHARS = 1500


def figures(
    summary: Summary,
    scenarios: Collection,
    tally: Tally,
    *,
    framework: str,
    measure: str,
    comparison: Comparison | None,
) -> dict[str, Any]:
    """Return all figures of the run as plain JSON."""
    catalog = scenarios.catalog
    return {
        **summary.model_dump(mode="json"),
        "success_is": measure,
        "framework": framework,
        "server": {
            "place": catalog.place,
            "name": catalog.name,
            "version": catalog.version,
            "protocol": catalog.protocol,
        },
        "tools_found": catalog.listed,
        "tools_taken": [tool.name for tool in catalog.tools],
        "tools_left_out": {out.name: out.reason for out in catalog.left_out},
        "scenarios_generated": scenarios.generated,
        "scenarios_rejected": len(scenarios.rejected),
        "scenarios_reused": scenarios.reused,
        "scenarios_train": len(scenarios.train),
        "scenarios_held_out": len(scenarios.held_out),
        "sessions_opened": tally.opened,
        "sessions_closed": tally.closed,
        "sessions_broken_off": tally.broken_off,
        "tool_calls": tally.calls,
        "tool_errors": tally.tool_errors,
        "tool_timeouts": tally.timeouts,
        "tool_answers_cut": tally.cut_answers,
        "tool_list_changes": tally.changed_lists,
        "judged": None if comparison is None else comparison.model_dump(mode="json"),
    }


def write_markdown(
    path: Path, figures: dict[str, Any], scenarios: Collection, examples: Sequence[Pair], measure: Callable[..., float]
) -> None:
    """Write `report.md`: success before and after, tools, and example rollouts."""
    server = figures["server"]
    lines = [
        f"# {server['name']}: before and after",
        "",
        f"{figures['scenarios_held_out']} held-out tasks, agent in {figures['framework']}, {figures['steps']} steps on "
        f"{figures['scenarios_train']} tasks.",
        "",
        "| | before | after |",
        "|---|---|---|",
        f"| {figures['success_is']} | {_success(figures, 'before')} | {_success(figures, 'after')} |",
    ]
    if judged := figures["judged"]:
        lines.append(
            f"| judge's mean score, both shown side by side | {judged['before']:.3f} | {judged['after']:.3f} |"
        )
        share = f"{100 * judged['preferred_after']:.0f} %"
        lines += ["", f"The judge prefers the rollouts after training in {share} of {judged['scenarios']} tasks."]
    lines += ["", "## Tools", "", *(f"- `{tool.name}`: {tool.description}" for tool in scenarios.catalog.tools)]
    lines += [f"- left out: `{out.name}` ({out.reason})" for out in scenarios.catalog.left_out]
    lines += ["", "## Examples", ""]
    for pair in most_changed(examples, measure):
        lines += [f"### {_line(pair.scenario.task)}", ""]
        for name, side in (("Before", pair.before), ("After", pair.after)):
            lines += [f"{name}:", "", "~~~", _shown(side[0]), "~~~", ""]
    path.write_text("\n".join(lines) + "\n")


def most_changed(examples: Sequence[Pair], measure: Callable[..., float]) -> list[Pair]:
    """Return the pairs whose success changed most, for better or worse, each from a different source."""

    def change(pair: Pair) -> float:
        sides = [measure(side[0], pair.scenario) for side in (pair.before, pair.after)]
        return abs(sides[1] - sides[0])

    by_source: dict[str, Pair] = {}
    for pair in sorted(examples, key=change, reverse=True):
        by_source.setdefault(pair.scenario.source, pair)
    return list(by_source.values())[:_EXAMPLES]


def _shown(trajectory: Trajectory) -> str:
    text = "\n".join(render_messages(history.messages[1:]) for history in histories(trajectory))
    text = text.replace("~~~", "~ ~ ~") or f"({trajectory.status})"
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:_EXAMPLE_CHARS]}\n[cut]"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _success(figures: dict[str, Any], when: str) -> str:
    success = figures[f"success_{when}"]
    return "-" if success is None else success_text(success, figures.get(f"interval_{when}"))
