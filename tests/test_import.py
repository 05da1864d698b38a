"""`import etude` is light, whole, and brings no torch, engine or framework along."""

from __future__ import annotations

import json
import subprocess
import sys

import etude

_PROBE = """
import json, sys, time
start = time.perf_counter()
import etude
took = time.perf_counter() - start
heavy = ("torch", "vllm", "transformers", "openai", "langchain_core", "langgraph", "crewai", "google.adk", "starlette")
print(json.dumps({"seconds": took, "found": [m for m in heavy if m in sys.modules]}))
"""


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_etude_brings_nothing_heavy_along() -> None:
    assert json.loads(_fresh(_PROBE))["found"] == []


def test_every_public_name_can_be_imported_and_is_listed() -> None:
    assert sorted(etude.__all__) == sorted({*etude._HOME, *etude._ROOMS, "__version__"})
    assert [name for name in etude.__all__ if getattr(etude, name, None) is None] == []


def test_training_needs_no_torch_in_the_client() -> None:
    code = "import sys, etude; [getattr(etude, n) for n in etude.__all__]; print('torch' in sys.modules)"

    assert _fresh(code).strip() == "False"


def test_a_wrong_name_is_an_attribute_error() -> None:
    assert not hasattr(etude, "trian")
