"""The loss that a policy is trained with; contradictory settings are refused at construction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import Field

from woodshed.errors import ConfigError
from woodshed.types.settings import Settings

Preset = Literal["grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Normalizer = Literal["rollout_mean", "constant_length", "batch_tokens"]

_OWN_BOUND = ("gspo", "cispo", "sapo")
"""Presets whose surrogate bounds the importance ratio itself, so that a correction would do nothing."""


class LossSettings(Settings):
    """A preset of the GRPO family, and values that replace its own; None means the preset's published value.

    The presets and their papers are in `woodshed.loss.presets`.

    Raises:
        ConfigError: A value is invalid, or two settings contradict each other.
    """

    preset: Preset = "grpo"
    clip_low: float | None = Field(default=None, gt=0)
    """The ratio is clipped below 1 - `clip_low`."""
    clip_high: float | None = Field(default=None, gt=0)
    """The ratio is clipped above 1 + `clip_high`."""
    correction: Correction | None = None
    """How the importance weight is bounded: `truncate` limits it to the cap C, `mask` removes the gradient outside
    [1/C, C]. `token`: one weight per token. `sequence`: the product of the ratios over the rollout."""
    importance_cap: float | None = Field(default=None, ge=1)
    """The cap C of the correction; 2 by default."""
    normalizer: Normalizer | None = None
    """What the sum over tokens is divided by; see `loss.grpo.token_weights`."""
    constant_length: int | None = Field(default=None, ge=1)
    """Divisor L of the normalizer `constant_length`: rollouts x L; 512 by default."""
    gate_positive: float | None = Field(default=None, gt=0)
    """Temperature of sapo's gate where the advantage is positive."""
    gate_negative: float | None = Field(default=None, gt=0)
    """Temperature of sapo's gate where it is negative."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence to the base model, which is the policy without its LoRA."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of an entropy bonus: the policy's mean entropy over all trained tokens is maximised too."""
    drift_warn: float = Field(default=0.05, gt=0)
    """Mean |trainer's - engine's log-probability| (nats) of tokens that the current weights sampled, above which a step
    logs a warning. The demo's policy in bfloat16 differs by 0.007 from itself in fp32 (a single token by 0.15); noise
    of 3 % of the weights' standard deviation makes 0.05."""
    drift_stop: float = Field(default=0.3, gt=0)
    """The same mean, above which the step is refused, because the engine did not sample from this policy. Sampling at
    temperature 0.7 that is recorded as 1 makes 0.15, which only warns."""

    def __init__(self, **values: Any) -> None:
        """Check the values; raises a `ConfigError` that names every invalid or contradictory one."""
        super().__init__(**values)
        for contradiction in _contradictions(self):
            raise ConfigError(f"LossSettings: {contradiction}")


def _contradictions(settings: LossSettings) -> Iterator[str]:
    """Yield a sentence for each pair of settings that contradict each other."""
    preset, correction = settings.preset, settings.correction
    has_own_bound = preset in _OWN_BOUND
    if has_own_bound and correction not in (None, "none"):
        yield (
            f"correction {correction!r} and preset {preset!r}: this preset bounds the importance ratio itself; "
            f"leave correction out, or use one of {_without_own_bound()}"
        )
    if (has_own_bound or correction == "none") and settings.importance_cap is not None:
        yield (
            f"importance_cap is {settings.importance_cap} but nothing is corrected with preset {preset!r} and "
            f"correction {correction!r}; leave one of them out"
        )
    if preset == "sapo" and (settings.clip_low or settings.clip_high) is not None:
        yield (
            f"clip_low={settings.clip_low}, clip_high={settings.clip_high} and preset 'sapo': its gate replaces the "
            "clip; use gate_positive and gate_negative"
        )
    if preset != "sapo" and (settings.gate_positive or settings.gate_negative) is not None:
        yield (
            f"gate_positive={settings.gate_positive}, gate_negative={settings.gate_negative} and preset {preset!r}: "
            "only 'sapo' has a gate"
        )
    normalizer = settings.normalizer or ("constant_length" if preset == "dr_grpo" else "another")
    if normalizer != "constant_length" and settings.constant_length is not None:
        yield (
            f"constant_length is {settings.constant_length} but the normalizer is not 'constant_length'; set "
            "normalizer, or leave constant_length out"
        )
    if settings.drift_stop < settings.drift_warn:
        yield f"drift_stop ({settings.drift_stop}) is below drift_warn ({settings.drift_warn})"


def _without_own_bound() -> list[str]:
    return [name for name in get_args(Preset) if name not in _OWN_BOUND]
