"""What a run leaves in its folder: `summary.json` and `history.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_summary(folder: Path, figures: dict[str, Any]) -> None:
    """Write `summary.json`, whole or not at all."""
    aside = folder / "summary.json.tmp"
    aside.write_text(json.dumps(figures, indent=2) + "\n")
    aside.replace(folder / "summary.json")


def write_history(folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `history.jsonl`, a row a line."""
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
