"""Recorded calls → training rows, and rows → packs that hold every shared prefix once. Plain Python, no tensors."""

from etude.tokens.merges import MergeStats, merge_stats
from etude.tokens.packing import Pack, pack_rows
from etude.tokens.rows import Row, fold_calls, why_untrained

__all__ = ["MergeStats", "Pack", "Row", "fold_calls", "merge_stats", "pack_rows", "why_untrained"]
