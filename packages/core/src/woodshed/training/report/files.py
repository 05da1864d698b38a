"""Write the result files of a run: `summary.json` and `history.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from woodshed.training.run.whole_file import write_whole


def write_summary(folder: Path, figures: dict[str, Any]) -> None:
    """Write `summary.json` atomically."""
    write_whole(folder / "summary.json", json.dumps(figures, indent=2) + "\n")


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, one row per line."""
    write_whole(folder / "history.jsonl", "".join(json.dumps(row) + "\n" for row in history))
