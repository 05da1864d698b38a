"""How many threads a step should use.

At each parallel operation all threads wait for the slowest. A tiny step has thousands of such operations with little
work to share. While vLLM uses the same cores, its threads would wait many times longer than they compute.
"""

from __future__ import annotations

_WORTH_A_THREAD = 2e10
"""Floating-point operations for each thread: about a fifth of a second of one core."""


def threads_worth(positions: int, parameters: int, available: int) -> int:
    """Return how many of the `available` threads a forward and backward pass over `positions` should use."""
    operations = 6.0 * positions * parameters
    return max(1, min(available, int(operations / _WORTH_A_THREAD)))
