"""`import woodshed` is light, whole, and brings no torch, engine or framework along."""

from __future__ import annotations

import json
import subprocess
import sys

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


def test_a_wrong_name_is_an_attribute_error() -> None:
    assert not hasattr(woodshed, "trian")
