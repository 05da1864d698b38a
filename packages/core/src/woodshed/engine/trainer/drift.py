"""How far the trainer's log-probabilities are from the engine's, where both used the same weights."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from torch import Tensor

from woodshed.errors import DriftError
from woodshed.types import LossSettings

_log = logging.getLogger("woodshed.trainer")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """The sum over tokens that the current weights sampled: those of older weights differ by what was learnt since.

    The mean is what is judged. The largest difference grows with the number of tokens, and one token of probability
    1e-6 makes it large in half precision without anything being wrong.
    """

    tokens: int = 0
    total: float = 0.0

    @classmethod
    def of(cls, new_M: Tensor, old_M: Tensor, fresh_M: Tensor) -> Drift:
        """Return the drift over the tokens that are fresh."""
        away_M = (new_M - old_M).abs()[fresh_M].double()
        return cls(tokens=len(away_M), total=away_M.sum().item())

    def __add__(self, other: Drift) -> Drift:
        """Return the drift over both sets of tokens."""
        return Drift(tokens=self.tokens + other.tokens, total=self.total + other.total)

    def metrics(self) -> dict[str, float]:
        """Return the mean; nothing where every token is of older weights."""
        return {"logprob_drift_fresh": self.total / self.tokens} if self.tokens else {}

    def check(self, settings: LossSettings) -> None:
        """Warn above one limit of the settings, and raise DriftError above the other."""
        mean = self.total / self.tokens if self.tokens else 0.0
        if not mean > settings.drift_warn and math.isfinite(mean):
            return
        said = (
            f"trainer and engine differ by {mean:.3g} in the log-probability of a sampled token, on average over "
            f"{self.tokens} tokens of the same weights"
        )
        if mean > settings.drift_stop or not math.isfinite(mean):
            raise DriftError(
                f"{said}; above {settings.drift_stop} (LossSettings.drift_stop) the engine did not sample from this "
                "policy: look for another base model, adapter, temperature, or a top_p/top_k that changes what is "
                "sampled. No step was taken and the weights are as before"
            )
        _log.warning("%s; %s (LossSettings.drift_warn) is what half precision explains", said, settings.drift_warn)
