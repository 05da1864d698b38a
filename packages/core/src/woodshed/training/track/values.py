"""What is sent: the numbers of history rows, evaluations and the summary, under the names that woodshed gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from woodshed.training.report.evaluations import EvaluationFigures
from woodshed.training.run.settings import flat

HELD_OUT = "held_out/"
"""How the names of an evaluation's numbers begin."""


def row_values(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a history row; what is not known is left out. The step is no value of its own."""
    return numbers({name: value for name, value in row.items() if name != "step"})


def evaluation_values(point: EvaluationFigures) -> dict[str, float]:
    """Return held-out success with the ends of its 95 % interval, and how many rollouts it is of."""
    low, high = point.interval if point.interval is not None else (None, None)
    named = {
        "success": point.success,
        "success_low": low,
        "success_high": high,
        "rollouts": point.rollouts,
        "failed": point.failed,
        "masked": point.masked,
    }
    return numbers({f"{HELD_OUT}{name}": value for name, value in named.items()})


def loss_values(loss: float) -> dict[str, float]:
    """Return an SFT's held-out loss, in nats per token."""
    return numbers({f"{HELD_OUT}loss": loss})


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers, a bool as 0 or 1."""
    return {name: float(value) for name, value in values.items() if isinstance(value, bool | int | float)}


def texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings by dotted path, with values as text: lists as JSON."""
    return {path: v if isinstance(v, str) else json.dumps(v) for path, v in flat(settings).items()}


def as_markdown(settings: Mapping[str, Any]) -> str:
    """Return settings as JSON in a Markdown block."""
    return f"```json\n{json.dumps(settings, indent=2)}\n```"
