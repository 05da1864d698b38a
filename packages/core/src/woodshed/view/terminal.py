"""The same figures and attempts for a terminal, as text. What a model wrote is printed without its control codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from woodshed.errors import ConfigError
from woodshed.training.report.interval import success_text
from woodshed.view.attempts import attempt
from woodshed.view.conversation import Json
from woodshed.view.group_figures import GroupFigures, figures_of
from woodshed.view.overview import overview
from woodshed.view.reader import RunReader

_SPARKS = "▁▂▃▄▅▆▇█"
_MOST_STEPS = 40
_COLUMNS = {
    "reward": "score", "spread": "spread", "loss": "loss", "drift": "drift", "entropy": "entropy", "masked": "masked",
    "flat_groups": "flat",
}  # fmt: skip
_STYLES = {"system": "dim", "user": "bold", "assistant": "cyan", "tool": "magenta"}


def print_run(run: RunReader, console: Console) -> None:
    """Print a run's figures, its evaluations, its steps and its warnings.

    Raises:
        ConfigError: the run cannot be read.
    """
    data = overview(run)
    console.print(Text(f"{data['name']}  {_state(data)}", style="bold"))
    console.print(_safe(f"{data['model'] or '?'} · {data['reward'] or '?'}"), style="dim")
    for point in data["evaluations"]:
        when = f"after step {point['step']}" if point["step"] else "before training"
        counted = f" of {point['rollouts']} rollouts" if point["rollouts"] else ""
        best = "  best" if point["is_best"] else ""
        interval = tuple(point["interval"]) if point["interval"] else None
        console.print(f"held-out success {success_text(point['success'], interval)} {when}{counted}{best}")
    if not data["steps"]:
        console.print("no step is finished yet")
    else:
        console.print(_curve("judge's score" if data["has_judge"] else "reward", data["series"].get("reward")))
        console.print(_steps(data))
    totals = data["totals"]
    cost = "" if totals["judge_cost_usd"] is None else f", judged for {totals['judge_cost_usd']:.4g} USD"
    console.print(
        f"{totals['rollouts']} rollouts ({totals['masked']} masked), {totals['flat_groups']} flat and "
        f"{totals['unjudged_groups']} unjudged groups, {totals['judge_requests']} requests to the judge{cost}",
        style="dim",
    )
    for warning in data["warnings"]:
        console.print(_safe(f"warning: {warning}"), style="yellow")


def print_step(run: RunReader, console: Console, step: int) -> None:
    """Print the groups of a step, counted from 1: those whose attempts differ most first.

    Raises:
        ConfigError: the run has no judged group of that step.
    """
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("scenario", "mean", "worst", "best", "spread", "different", "consistency", ""):
        table.add_column(name, justify="left" if name in ("scenario", "") else "right", overflow="fold")
    for group in _groups(run, step):
        table.add_row(
            _safe(group.scenario), _number(group.mean), _number(group.worst), _number(group.best),
            _number(group.spread), f"{group.distinct or '–'} of {group.scored}", _number(group.consistency),
            _safe(group.error or ("all scores equal" if group.spread == 0 else "")),
        )  # fmt: skip
    console.print(Text(f"{run.name}, step {step}", style="bold"))
    console.print(table)


def print_attempts(run: RunReader, console: Console, *, step: int | None, best: bool, worst: bool) -> None:
    """Print the best attempt of a step, the worst, or both: of the group whose scores differ most.

    Args:
        run: The run.
        console: Where to.
        step: Counted from 1; None is the last one with a judged group.
        best: Whether to print the best attempt.
        worst: Whether to print the worst.

    Raises:
        ConfigError: no group of that step has a score.
    """
    scored = [group for group in _groups(run, step) if group.scored]
    if not scored:
        raise ConfigError(f"no attempt of step {step} has a score; look at another step: `woodshed show {run.folder}`")
    group = scored[0]
    with run.store() as store:
        judgement = store.judgement(group.group_id)
        slots = dict(
            store.rows(
                "SELECT rollout_id, slot FROM trajectories WHERE slot >= ? || '/' AND slot < ? || '0'",
                group.group_id, group.group_id,
            )
        )  # fmt: skip
    assert judgement is not None
    order = sorted(judgement.scores, key=lambda s: -s.value)
    consistency = "" if judgement.consistency is None else f", consistency {judgement.consistency:.2f}"
    console.print(Text(f"{run.name}, step {group.step + 1}, {_plain(group.scenario)}", style="bold"))
    console.print(_safe(f"judged by {judgement.judge}{consistency}; scores {_scores(judgement.scores)}"), style="dim")
    for score in [*order[:1][: int(best)], *order[-1:][: int(worst)]]:
        _print_attempt(attempt(run, slots[score.rollout_id]), console)


def _groups(run: RunReader, step: int | None) -> list[GroupFigures]:
    with run.store() as store:
        figures = list(figures_of(store, run.memory).values())
    if not figures:
        raise ConfigError(f"the run in {str(run.folder)!r} has no judged group yet")
    wanted = max(g.step for g in figures) if step is None else step - 1
    found = [g for g in figures if g.step == wanted]
    if not found:
        steps = sorted({g.step + 1 for g in figures})
        raise ConfigError(
            f"the run has no judged group of step {step}; it has those of steps {steps[0]} to {steps[-1]}"
        )
    return sorted(found, key=lambda g: (-(g.spread or 0), g.scenario))


def _print_attempt(shown: Json, console: Console) -> None:
    score = shown["score"]
    console.print()
    console.print(Text(f"attempt {shown['number']}: {score['value']:.3g}", style="bold"))
    if score["explanation"]:
        console.print(Padding(_safe(score["explanation"]), (0, 0, 0, 2)), style="italic")
    training = shown["training"] or {}
    if training:
        why = training.get("why") or f"advantage {training['advantage']:.3g}"
        console.print(_safe(f"  {training['state']}: {why}"), style="dim")
    for conversation in shown["conversations"]:
        if len(shown["conversations"]) > 1:
            console.print(_safe(f"-- {conversation['agent'] or 'agent'} --"), style="dim")
        for message in conversation["messages"]:
            _print_message(message, console)
    if shown["error"]:
        console.print(_safe(shown["error"]), style="red")


def _print_message(message: Json, console: Console) -> None:
    name = f"result of {message['tool']}" if message["role"] == "tool" else message["role"]
    text = Text(f"{_plain(name)}: ", style=_STYLES.get(message["role"], ""))
    lines = [message["content"]] if message["content"] else []
    lines += [f"calls {r['name']}({r['arguments']})" for r in message.get("requests", ())]
    console.print(text.append(_safe("\n".join(lines)).plain, style="not bold"))
    if message.get("error"):
        console.print(_safe(f"  the tool failed: {message['error']}"), style="red")


def _steps(data: Mapping[str, Any]) -> Table:
    series = {name: label for name, label in _COLUMNS.items() if data["series"].get(name)}
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("step", *series.values(), ""):
        table.add_column(name, justify="right")
    count = len(data["steps"])
    for k in range(max(0, count - _MOST_STEPS), count):
        cells = [_number(data["series"][name][k]) for name in series]
        table.add_row(str(data["steps"][k]), *cells, "" if data["trained"][k] else "nothing trained")
    return table


def _curve(label: str, values: Sequence[float | None] | None) -> str:
    known = [v for v in values or () if v is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    shown = known[:: max(1, len(known) // 60)]
    sparks = "".join(_SPARKS[min(7, int(8 * (v - low) / span))] for v in shown)
    return f"{label} {known[0]:.3g} {sparks} {known[-1]:.3g}"


def _scores(scores: Sequence[Any]) -> str:
    return ", ".join(f"{s.value:.3g}" for s in sorted(scores, key=lambda s: -s.value))


def _state(data: Mapping[str, Any]) -> str:
    asked = f" of {data['steps_asked']}" if data["steps_asked"] else ""
    steps = f"{data['steps_done']}{asked} steps"
    if data["process"]:
        return f"running (process {data['process']['pid']}), {steps}"
    return f"{'finished' if data['finished'] else 'stopped'}, {steps}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _plain(text: str) -> str:
    """Return text without control characters: an agent's answer must not move the cursor or colour the terminal."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))


def _safe(text: str) -> Text:
    return Text(_plain(text))
