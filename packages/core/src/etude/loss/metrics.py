"""Sums over tokens that add up over micro-batches, and the figures a report shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStats:
    """Sums and maxima over trained tokens. `a + b` is exact for the union of two disjoint sets of tokens."""

    tokens: float = 0.0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    clipped: float = 0.0
    """Tokens whose gradient the clip removed."""
    truncated: float = 0.0
    """Tokens whose importance ratio was cut to the cap."""
    kl_sum: float = 0.0
    """Sum of ratio - 1 - log ratio over tokens the engine sampled: estimates KL(engine || trainer)."""
    drift_max: float = 0.0
    """Largest |trainer's log-probability - engine's|."""
    surprise_sum: float = 0.0
    """Sum of -log p under the engine: its mean estimates the sampling policy's entropy."""

    def __add__(self, other: TokenStats) -> TokenStats:
        """Return the stats of both sets of tokens together."""
        return TokenStats(
            tokens=self.tokens + other.tokens,
            ratio_sum=self.ratio_sum + other.ratio_sum,
            ratio_max=max(self.ratio_max, other.ratio_max),
            clipped=self.clipped + other.clipped,
            truncated=self.truncated + other.truncated,
            kl_sum=self.kl_sum + other.kl_sum,
            drift_max=max(self.drift_max, other.drift_max),
            surprise_sum=self.surprise_sum + other.surprise_sum,
        )

    def metrics(self) -> dict[str, float]:
        """Return the figures of a report; only the token count where there are no tokens."""
        if not self.tokens:
            return {"trained_tokens": 0.0}
        return {
            "trained_tokens": self.tokens,
            "ratio_mean": self.ratio_sum / self.tokens,
            "ratio_max": self.ratio_max,
            "clip_fraction": self.clipped / self.tokens,
            "truncated_fraction": self.truncated / self.tokens,
            "engine_kl": self.kl_sum / self.tokens,
            "logprob_drift_max": self.drift_max,
            "entropy": self.surprise_sum / self.tokens,
        }
