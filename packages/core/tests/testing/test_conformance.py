"""The contract's rows in which no framework has a part, held once for all adapters."""

from __future__ import annotations

from pathlib import Path

from woodshed.testing.conformance import CoreConformance


class TestCoreConformance(CoreConformance):
    policy = Path(__file__).parents[3] / "tiny_world/src/woodshed_tiny_world/weights/policy"
