"""The notebook runs from top to bottom in a real kernel, whose event loop is running, on the real engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "first_run.ipynb"


def test_the_notebook_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed; `make install` installs it")
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]

    assert [(c.outputs, c.execution_count) for c in cells] == [([], None)] * len(cells)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # those of the Jupyter packages
def test_the_notebook_trains(needs_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed; `make install` installs it")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed; `make install` installs it")
    import nbformat

    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    engine_home = Path(os.environ.get("WOODSHED_ENGINE_HOME", ROOT / ".engine"))
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(engine_home.resolve()))
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(book, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()

    _, training, rows, summary = [c for c in book.cells if c.cell_type == "code"]
    shown = text_of(training)
    assert "step 1/2  reward" in shown and "step 2/2  reward" in shown and "judge" not in shown
    assert text_of(rows).count("16 rollouts") == 2
    assert "runs/first_run" in text_of(summary)
    assert (tmp_path / "runs" / "first_run" / "summary.json").exists()


def text_of(cell: Any) -> str:
    parts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(parts)
