"""Judges with known faults, the naive way of asking them, and groups whose truth is known."""
