"""`import woodshed` is light, whole, and brings no torch, engine or framework along."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import woodshed

_PROBE = """
import json, sys, time
start = time.perf_counter()
import woodshed
took = time.perf_counter() - start
heavy = ("torch", "vllm", "transformers", "openai", "langchain_core", "langgraph", "crewai", "google.adk", "starlette")
print(json.dumps({"seconds": took, "found": [m for m in heavy if m in sys.modules]}))
"""


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_woodshed_brings_nothing_heavy_along() -> None:
    assert json.loads(_fresh(_PROBE))["found"] == []


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert sorted(woodshed.__all__) == sorted({*woodshed._HOME, *woodshed._ROOMS, "__version__"})
    assert [name for name in woodshed.__all__ if getattr(woodshed, name, None) is None] == []


def test_training_needs_no_torch_in_the_client() -> None:
    code = "import sys, woodshed; [getattr(woodshed, n) for n in woodshed.__all__]; print('torch' in sys.modules)"

    assert _fresh(code).strip() == "False"


@pytest.mark.parametrize("process", ["woodshed.engine.trainer.worker", "woodshed.engine.vllm.fork_server"])
def test_processes_of_the_engine_start_without_an_http_client(process: str) -> None:
    assert _fresh(f"import sys, {process}; print('httpx' in sys.modules)").strip() == "False"


def test_a_wrong_name_is_an_attribute_error() -> None:
    assert not hasattr(woodshed, "trian")


@pytest.mark.parametrize("package", ["woodshed", "woodshed.engine", "woodshed.mcp", "woodshed.traces"])
def test_a_type_checker_sees_every_public_name_and_no_other(package: str) -> None:
    """What stands in an `if not TYPE_CHECKING` it does not see: a `__getattr__` would make any name right to it."""
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    shown = [node for block in blocks if isinstance(block.test, ast.Name) for node in ast.walk(block)]

    imported = {alias.name for node in shown if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == {*module.__all__} - {"__version__"}
    assert not [node for node in tree.body if "__getattr__" in ast.unparse(node) and node not in blocks]
