"""Drift: how far the trainer's log-probabilities are from the engine's, where both used the same weights."""

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
    """Sum of |trainer's - engine's log-probability| over fresh tokens, those that the current weights sampled.

    Tokens of older weights also differ by what was learned since. The mean is compared with the limits; the largest
    difference grows with the number of tokens, and in half precision a single token of probability 1e-6 makes it large.
    """

    tokens: int = 0
    total: float = 0.0

    @classmethod
    def of(cls, new_M: Tensor, old_M: Tensor, fresh_M: Tensor) -> Drift:
        """Return the drift over the tokens for which `fresh_M` is True; log-probabilities are in nats."""
        difference_M = (new_M - old_M).abs()[fresh_M].double()
        return cls(tokens=len(difference_M), total=difference_M.sum().item())

    def __add__(self, other: Drift) -> Drift:
        """Return the drift over both sets of tokens."""
        return Drift(tokens=self.tokens + other.tokens, total=self.total + other.total)

    def metrics(self) -> dict[str, float]:
        """Return the mean as a metric; empty where there are no fresh tokens."""
        return {"logprob_drift_fresh": self.total / self.tokens} if self.tokens else {}

    def check(self, settings: LossSettings) -> None:
        """Log a warning where the mean is above `drift_warn`.

        Raises:
            DriftError: The mean is above `drift_stop`, or not finite.
        """
        mean = self.total / self.tokens if self.tokens else 0.0
        if not mean > settings.drift_warn and math.isfinite(mean):
            return
        finding = (
            f"trainer and engine differ by {mean:.3g} in the log-probability of a sampled token, on average over "
            f"{self.tokens} tokens of the same weights"
        )
        if mean > settings.drift_stop or not math.isfinite(mean):
            raise DriftError(
                f"{finding}; above {settings.drift_stop} (LossSettings.drift_stop) the engine did not sample from this "
                "policy: look for another base model, adapter, temperature, or a top_p/top_k that changes what is "
                "sampled. No step was taken and the weights are as before"
            )
        _log.warning(
            "%s; half precision explains at most about %s (LossSettings.drift_warn)", finding, settings.drift_warn
        )
