"""Write the result files of a run: `summary.json` and `history.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_summary(folder: Path, figures: dict[str, Any]) -> None:
    """Write `summary.json` atomically."""
    temporary = folder / "summary.json.tmp"
    temporary.write_text(json.dumps(figures, indent=2) + "\n")
    temporary.replace(folder / "summary.json")


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, one row per line."""
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
