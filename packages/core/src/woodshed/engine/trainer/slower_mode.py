"""What a forward mode other than the fastest costs: said once when it is chosen, and once on the first real batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from woodshed.engine.trainer.forward import MicroBatch, TrainingRow
from woodshed.engine.trainer.forward_mode import TOKEN_BUDGET, ForwardChoice
from woodshed.tokens import pack_rows

_log = logging.getLogger("woodshed.trainer")

_WORTH_SAYING = 1.2
"""From how many times the tokens on the first batch is warned of."""


class SlowerMode:
    """Warns of a forward mode, or kernels, that are not the fastest."""

    def __init__(self, choice: ForwardChoice, *others: str | None) -> None:
        """Log why the fastest mode was left, if it was, and `others`, what else is slower than it could be."""
        self.warnings = tuple(text for text in (choice.warning(), *others) if text is not None)
        """What was known before the first batch."""
        self._counts = choice.mode == "rows"
        self._new: list[str] = []
        for text in self.warnings:
            _log.warning("%s", text)

    def packed(self, rows: Sequence[TrainingRow], parts: Sequence[MicroBatch]) -> None:
        """Warn, on the first batch that goes row by row, of how many times the shared tree's tokens it holds."""
        if not self._counts or not rows:
            return
        self._counts = False
        tree = pack_rows([row.row.token_ids for row in rows], token_budget=TOKEN_BUDGET["tree"])
        shared = sum(len(pack.token_ids) for pack in tree)
        own = sum(part.input_ids_BN.numel() for part in parts)
        if own < _WORTH_SAYING * shared:
            return
        text = (
            f"the forward mode 'rows' packs every rollout's own tokens instead of the shared tree: {own:,} instead of "
            f"{shared:,}, {own / shared:.1f}× the tokens"
        )
        _log.warning("%s", text)
        self._new.append(text)

    def new_warnings(self) -> tuple[str, ...]:
        """Return the warnings since the last call."""
        new, self._new = tuple(self._new), []
        return new
