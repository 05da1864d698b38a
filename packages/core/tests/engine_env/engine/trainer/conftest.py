"""What tests of the trainer share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def over_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run whole models with the GPU's plan."""
    from woodshed.engine.trainer import forward
    from woodshed.engine.trainer.attention.tree import TreePlan

    plan = forward._plan

    def planned(*given: Any) -> TreePlan:
        made = plan(*given)
        return TreePlan(segments=made.segments, device=made.device, kernel="paths")

    monkeypatch.setattr(forward, "_plan", planned)
