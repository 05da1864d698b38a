"""Statistics of a step: sums over tokens that add up over micro-batches, and the metrics a report shows."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStats:
    """Sums and maxima over trained tokens. `a + b` is exact for the union of two disjoint sets of tokens."""

    tokens: float = 0.0
    ratio_sum: float = 0.0
    ratio_max: float = 0.0
    clipped: float = 0.0
    """Tokens whose gradient the clip removed, or whose constant weight it changed."""
    truncated: float = 0.0
    """Tokens whose importance weight the correction truncated or masked."""
    kl_sum: float = 0.0
    """Sum of ratio - 1 - log ratio over tokens the engine sampled, which estimates KL(engine || trainer)
    (http://joschu.net/blog/kl-approx.html)."""
    drift_sum: float = 0.0
    drift_max: float = 0.0
    """Largest |trainer's log-probability - engine's|."""
    surprise_sum: float = 0.0
    """Sum of -log p under the engine; its mean estimates the sampling policy's entropy in nats."""
    base_kl_sum: float = 0.0
    """Sum of the estimated KL to the base model; 0 where the loss has no such term."""
    entropy_sum: float = 0.0
    """Sum of the policy's own entropy; 0 where the loss has no such term."""

    def __add__(self, other: TokenStats) -> TokenStats:
        """Return the stats of both sets of tokens together."""
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return TokenStats(**{name: max(pair) if name.endswith("_max") else sum(pair) for name, pair in both.items()})

    def metrics(self) -> dict[str, float]:
        """Return metric name → value (log-probabilities in nats); only the token count if there are no tokens."""
        if not self.tokens:
            return {"trained_tokens": 0.0}
        terms = {"base_kl": self.base_kl_sum, "policy_entropy": self.entropy_sum}
        return {
            "trained_tokens": self.tokens,
            "ratio_mean": self.ratio_sum / self.tokens,
            "ratio_max": self.ratio_max,
            "clip_fraction": self.clipped / self.tokens,
            "truncated_fraction": self.truncated / self.tokens,
            "engine_kl": self.kl_sum / self.tokens,
            "logprob_drift_mean": self.drift_sum / self.tokens,
            "logprob_drift_max": self.drift_max,
            "entropy": self.surprise_sum / self.tokens,
            **{name: total / self.tokens for name, total in terms.items() if total},
        }
