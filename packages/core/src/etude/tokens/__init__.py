"""Recorded calls → training rows, and rows → packs that hold every shared prefix once. Plain Python, no tensors."""

from etude.tokens.packing import Pack, pack_rows
from etude.tokens.rows import Row, fold_calls, why_untrained

__all__ = ["Pack", "Row", "fold_calls", "pack_rows", "why_untrained"]
