"""The log importance ratio of every trained token of a step, kept in a file for whoever looks at the run later.

`home/log_ratios/00007.json.gz` belongs to the step that made version 7: rollout id → call id → one number per token, in
the order of the answer. Nothing reads it during training.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # else whoever names the folder would import PEFT, which takes seconds and must come after Unsloth
    from torch import Tensor

    from woodshed.engine.trainer.forward import MicroBatch

_log = logging.getLogger("woodshed.trainer")
FOLDER = "log_ratios"
_DIGITS = 4


class LogRatios:
    """Log of the trainer's probability over the engine's, in nats, of the tokens of one step."""

    def __init__(self, rollout_ids: Sequence[str]) -> None:
        """Start empty; `rollout_ids` are those that the micro-batches count by index."""
        self._ids = rollout_ids
        self._found: dict[str, dict[str, list[float]]] = defaultdict(partial(defaultdict, list))

    def add(self, part: MicroBatch, new_M: Tensor) -> None:
        """Add a micro-batch; `new_M` are the trainer's log-probabilities of its tokens."""
        values = (new_M - part.old_logprobs_M).tolist()
        for rollout, call_id, value in zip(part.rollout_of_M.tolist(), part.calls_M, values, strict=True):
            self._found[self._ids[rollout]][call_id].append(round(value, _DIGITS))

    def __add__(self, other: LogRatios) -> LogRatios:
        """Return the log ratios of both."""
        both = LogRatios(self._ids)
        for found in (self._found, other._found):
            for rollout_id, by_call in found.items():
                for call_id, values in by_call.items():
                    both._found[rollout_id][call_id] += values
        return both

    def save(self, home: Path, version: int) -> None:
        """Write the file of the step that made `version`; a disk that refuses it costs a view, and no step."""
        file = home / FOLDER / f"{version:05d}.json.gz"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            aside = file.with_name(f".{file.name}")
            aside.write_bytes(gzip.compress(json.dumps(self._found).encode(), compresslevel=3))
            aside.replace(file)
        except OSError as error:
            _log.warning("the importance ratios of version %d are not kept: %s", version, error)
