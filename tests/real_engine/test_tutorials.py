"""The tutorials run from top to bottom in a real kernel, on one real engine."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest

from woodshed.engine import EngineClient

pytest.importorskip("nbclient", reason="nbclient is not installed; `make install` installs it")
pytest.importorskip("ipykernel", reason="ipykernel is not installed; `make install` installs it")
import nbclient
import nbformat

EXAMPLES = Path(__file__).parents[2] / "examples"
TUTORIALS = ("tutorial_langgraph", "tutorial_crewai", "tutorial_adk", "tutorial_mcp")
SAID = {
    "tutorial_langgraph": ("Let me look that up for you.", "step 2: score", "held-out success", "adapter_model"),
    "tutorial_crewai": ("model call of Clerk of a music shop", "tool call get_price", "step 2: score", "adapter_model"),
    "tutorial_adk": ("Level.WRONG_ANSWER", "step 1: score", "held-out success", "adapter_model"),
    "tutorial_mcp": ("get_delivery - ", "held out", "step 1: score", "tool calls"),
    "real_model": ("assistant: {'name': ", "held-out success", "adapter_model", ".gguf"),
}
SMALL = 'FRAMEWORK, TALKS, STEPS, QUESTIONS, SEED = "langgraph", 40, 1, 8, 0'
"""The real model's parameters in a test: minutes instead of a quarter of an hour."""


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def code_cells(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def tagged(book: Any, tag: str) -> Any:
    (cell,) = (cell for cell in code_cells(book) if tag in cell.metadata.get("tags", []))
    return cell


def shown(book: Any) -> str:
    outputs = [output for cell in code_cells(book) for output in cell.outputs]
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs)


async def run(book: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a notebook in a folder that has what `examples` has beside it."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "CREWAI_STORAGE_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    home = Path(os.environ.get("WOODSHED_ENGINE_HOME", EXAMPLES.parent / ".engine"))
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(home.resolve()))
    for beside in ("mcp", "shop_real"):
        (folder / beside).symlink_to(EXAMPLES / beside)
    await nbclient.NotebookClient(book, timeout=3000, resources={"metadata": {"path": str(folder)}}).async_execute()


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    cells = code_cells(read(name))

    assert [(c.outputs, c.execution_count) for c in cells] == [([], None)] * len(cells)


def test_the_notebook_of_the_real_model_is_kept_with_what_it_said_and_no_folder_of_a_machine() -> None:
    book = read("real_model")

    assert [c.execution_count for c in code_cells(book)] == [*range(1, len(code_cells(book)) + 1)]
    assert [words for words in SAID["real_model"] if words not in shown(book)] == []
    assert not re.search(r"(?<![\w.~])/(root|home|tmp|Users|work)/", nbformat.writes(book))


@pytest.mark.parametrize("name", [*TUTORIALS, "real_model"])
def test_a_notebook_is_python(name: str) -> None:
    for cell in code_cells(read(name)):
        lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
        compile("\n".join(lines), name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # those of the Jupyter packages
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", TUTORIALS)
async def test_a_tutorial_runs(
    engine: EngineClient, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = read(name)
    cell = tagged(book, "engine")
    assert cell.source == 'engine = woodshed.Engine.local(models={"judge": judge_model()})'
    cell.source = f"engine = woodshed.Engine.connect({engine.url!r}, api_key={engine.api_key!r})"

    await run(book, tmp_path, monkeypatch)

    assert [words for words in SAID[name] if words not in shown(book)] == [], shown(book)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    not os.environ.get("WOODSHED_REAL_MODEL"),
    reason="downloads 93 MB and takes minutes and 9 GB; WOODSHED_REAL_MODEL=1 runs it",
)
async def test_the_notebook_of_the_real_model_runs(
    needs_engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = read("real_model")
    tagged(book, "parameters").source = SMALL

    await run(book, tmp_path, monkeypatch)

    assert [words for words in SAID["real_model"] if words not in shown(book)] == []
