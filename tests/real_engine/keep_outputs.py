"""Run the notebook of the real model from top to bottom and keep its outputs in it: `make notebook-real`.

What was printed is kept as plain text, and folders of this machine are written as `.` (where the notebook stands) and
`~`; nothing else of the outputs is changed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbclient
import nbformat

BOOK = Path(__file__).parents[2] / "examples/real_model.ipynb"


def main() -> None:
    """Run it where it stands; its run is in `examples/runs`, which git ignores."""
    book = nbformat.read(BOOK, as_version=4)
    client = nbclient.NotebookClient(book, timeout=7200, resources={"metadata": {"path": str(BOOK.parent)}})
    client.on_cell_start = lambda cell, cell_index: print(f"cell {cell_index + 1} of {len(book.cells)}", flush=True)
    client.execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)  # clock times
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    BOOK.write_text(without_folders(nbformat.writes(book)) + "\n")


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return the outputs with what was printed as one plain text: each line is an output, as HTML and in colours."""
    printed = "".join(_printed(output) or "" for output in outputs)
    kept = [output for output in outputs if _printed(output) is None]
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    return [*([nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []), *kept]


def _printed(output: nbformat.NotebookNode) -> str | None:
    if output.output_type == "stream":
        return str(output.text)
    is_line = output.output_type == "display_data" and set(output.data) <= {"text/html", "text/plain"}
    return str(output.data["text/plain"]) if is_line else None


def without_folders(text: str) -> str:
    """Return a notebook's JSON with no folder of this machine in it."""
    for folder, short in ((BOOK.parent, "."), (BOOK.parents[1], ".."), (Path.home(), "~")):
        text = text.replace(json.dumps(str(folder))[1:-1], short)
    return text


if __name__ == "__main__":
    sys.exit(main())
