"""Which loss a policy is trained with; what contradicts itself is refused at construction."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from woodshed.errors import ConfigError
from woodshed.types.record import Record

Preset = Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Normalizer = Literal["rollout_mean", "constant_length", "batch_tokens"]

_OWN_BOUND = ("gspo", "cispo", "sapo")
"""Presets whose surrogate bounds the ratio itself."""


class LossSettings(Record):
    """Which preset of the GRPO family is used, and its free numbers; None means the preset's own published value.

    Raises ConfigError where two settings contradict each other.
    """

    preset: Preset = "grpo"
    clip_low: float | None = Field(default=None, gt=0)
    clip_high: float | None = Field(default=None, gt=0)
    correction: Correction | None = None
    """How the importance weight is bounded: cut to the cap (`truncate`), or no gradient outside [1/cap, cap] (`mask`);
    one weight a token, or the product over all a rollout sampled."""
    importance_cap: float | None = Field(default=None, ge=1)
    """C of the correction; 2 where it is not named."""
    normalizer: Normalizer | None = None
    """What the sum over tokens is divided by; see `loss.grpo.token_weights`."""
    constant_length: int | None = Field(default=None, ge=1)
    """Divisor L of the normalizer `constant_length`: rollouts x L; 512 where it is not named."""
    gate_positive: float | None = Field(default=None, gt=0)
    """Temperature of sapo's gate where the advantage is positive."""
    gate_negative: float | None = Field(default=None, gt=0)
    """Temperature of sapo's gate where it is negative."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL term to the base model, which is the policy with its adapter off."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the policy's mean entropy over all trained tokens; it is added to what is maximised."""
    drift_warn: float = Field(default=0.05, gt=0)
    """Mean |trainer's - engine's log-probability| of tokens the current weights sampled, above which a step warns.
    The demo's policy in bfloat16 is 0.007 from itself in fp32 (0.15 for a single token); weights off by 3 % of their
    deviation are 0.05 away."""
    drift_stop: float = Field(default=0.3, gt=0)
    """The same figure, above which the step is refused: the engine did not sample from this policy. A temperature of
    0.7 that is taken for 1 makes 0.15 there, and warns."""

    def __init__(self, **values: Any) -> None:
        """Refuse bad values and contradictions with a `ConfigError` that names them."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            said = [f"LossSettings.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError("\n".join(said)) from None
        for wrong in _contradictions(self):
            raise ConfigError(f"LossSettings: {wrong}")


def _contradictions(of: LossSettings) -> list[str]:
    """Return what cannot be meant, each as a sentence."""
    own = of.preset in _OWN_BOUND
    corrected = not own and of.correction != "none"
    normalizer = of.normalizer or ("constant_length" if of.preset == "dr_grpo" else "another")
    found = {
        f"correction {of.correction!r} and preset {of.preset!r}: this preset bounds the importance ratio itself; "
        f"leave correction out, or use one of {_without_own_bound()}": own and of.correction not in (None, "none"),
        f"importance_cap is {of.importance_cap} but nothing is corrected with preset {of.preset!r} and correction "
        f"{of.correction!r}; leave one of them out": not corrected and of.importance_cap is not None,
        f"clip_low={of.clip_low}, clip_high={of.clip_high} and preset 'sapo': its gate replaces the clip; "
        "use gate_positive and gate_negative": of.preset == "sapo" and (of.clip_low or of.clip_high) is not None,
        f"gate_positive={of.gate_positive}, gate_negative={of.gate_negative} and preset {of.preset!r}: only 'sapo' has "
        "a gate": of.preset != "sapo" and (of.gate_positive or of.gate_negative) is not None,
        f"constant_length is {of.constant_length} but the normalizer is not 'constant_length'; set normalizer, or "
        "leave constant_length out": normalizer != "constant_length" and of.constant_length is not None,
        f"drift_stop ({of.drift_stop}) is below drift_warn ({of.drift_warn})": of.drift_stop < of.drift_warn,
    }
    return [sentence for sentence, wrong in found.items() if wrong]


def _without_own_bound() -> list[str]:
    return [name for name in get_args(Preset) if name not in _OWN_BOUND]
