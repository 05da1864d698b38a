"""Recorded calls → training rows, and rows → packs that store each shared prefix once. Plain Python, no tensors."""

from woodshed.tokens.dealing import deal_rows
from woodshed.tokens.packing import Pack, pack_rows
from woodshed.tokens.prefix_reuse import PrefixReuse, measure_prefix_reuse
from woodshed.tokens.rows import Row, build_rows, why_untrained

__all__ = [
    "Pack",
    "PrefixReuse",
    "Row",
    "build_rows",
    "deal_rows",
    "measure_prefix_reuse",
    "pack_rows",
    "why_untrained",
]
