"""In every framework the clerk sends exactly the requests the tiny models were taught on."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from woodshed.errors import ConfigError
from woodshed_tiny_world.agents import CLERKS, rollout_of

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny_world" / "train_models"
NEEDED = {"langgraph": "langchain_openai", "crewai": "crewai", "adk": "google.adk"}


def recorder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_requests", EXAMPLE / "record_requests.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the training scripts are not beside this package")
@pytest.mark.parametrize("framework", CLERKS)
def test_the_recorded_requests_are_what_the_clerk_sends(framework: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CrewAI's own, of its imports and of its deprecated fields
        pytest.importorskip(NEEDED[framework], reason=f"the clerk needs {NEEDED[framework]}")
        sent = recorder().record(framework)

    assert sent == json.loads((EXAMPLE / "requests" / f"{framework}.json").read_text())


def test_a_framework_without_a_clerk_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no clerk written in 'autogen'; choose one of langgraph, crewai, adk"):
        rollout_of("autogen")
