"""What tests across packages share: their helpers by name, and those of core's tests."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).parent
# Tests are imported by file, so their shared helpers need a place on the path.
sys.path[:0] = [str(_HERE), str(_HERE.parent / "packages" / "core" / "tests")]
