"""Unsloth loads the policy in the trainer's own process, and rows go along the tree, or the run is told why not."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest
import torch

from woodshed.engine.trainer import Trainer
from woodshed.types import OpenPolicy, PolicyState

WEIGHTS = Path(__file__).parents[5] / "tiny_world/src/woodshed_tiny_world/weights/policy"


@pytest.mark.gpu
def test_what_unsloth_loads_goes_along_the_tree_or_the_run_is_warned(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, torch finds none")
    if importlib.util.find_spec("unsloth") is None:
        pytest.skip("needs Unsloth (woodshed engine install --unsloth), which is not installed here")

    async def opened() -> PolicyState:
        trainer = Trainer(str(WEIGHTS), tmp_path, OpenPolicy(name="policy", trainer="unsloth"))
        try:
            return await trainer.start()
        finally:
            await trainer.close()

    state = asyncio.run(opened())

    assert "'policy' is loaded by unsloth" in (tmp_path / "trainer.log").read_text()
    assert state.forward_mode == "tree" or any("forward mode" in warning for warning in state.warnings)
