"""Tests of the rooms with torch: they run in the engine's environment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# Tests are imported by file, so their shared builders need a place on the path.
sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["*/test_*.py"]
else:
    import torch

    torch.set_num_threads(1)
    if importlib.util.find_spec("hypothesis") is None:  # the tests marked `gpu` need pytest alone
        collect_ignore = [
            str(file) for file in Path(__file__).parent.rglob("test_*.py") if "hypothesis" in file.read_text()
        ]


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny random model."""
    from tiny_trainer import save_model

    return save_model(tmp_path_factory.mktemp("model"))
