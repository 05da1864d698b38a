"""Recorded calls → training rows, and rows → packs that hold every shared prefix once. Plain Python, no tensors."""

from woodshed.tokens.merges import MergeStats, merge_stats
from woodshed.tokens.packing import Pack, pack_rows
from woodshed.tokens.rows import Row, fold_calls, why_untrained

__all__ = ["MergeStats", "Pack", "Row", "fold_calls", "merge_stats", "pack_rows", "why_untrained"]
