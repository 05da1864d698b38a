"""How many threads a step is worth.

At each parallel operation the threads wait for the slowest of them. A tiny step has thousands of them and nothing to
share; beside a vLLM that wants the same cores, its threads then wait for their turn to run, many times as long as they
work.
"""

from __future__ import annotations

_WORTH_A_THREAD = 2e10
"""Floating-point operations: about a fifth of a second of one core."""


def threads_worth(positions: int, parameters: int, available: int) -> int:
    """Return on how many of the threads `available` a forward and backward pass over so many positions should run."""
    operations = 6.0 * positions * parameters
    return max(1, min(available, int(operations / _WORTH_A_THREAD)))
