"""The agent sends exactly the request the tiny policy was taught on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("langchain_openai", reason="the agent needs langchain-openai")
EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny_world" / "train_models"


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the training scripts are not beside this package")
def test_the_recorded_request_is_what_the_agent_sends() -> None:
    spec = importlib.util.spec_from_file_location("record_request", EXAMPLE / "record_request.py")
    assert spec and spec.loader
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)

    assert recorder.record() == json.loads((EXAMPLE / "request.json").read_text())
