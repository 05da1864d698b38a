"""What each preset of the GRPO family sets, with its paper. Imports no torch, so the client can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from woodshed.types.loss import Correction, LossSettings, Normalizer

Surrogate = Literal["clip", "detached", "gate"]

_CAP, _CONSTANT_LENGTH = 2.0, 512
_NO_LOWER_CLIP = 1.0
"""1 - this is 0, and no ratio is below 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossPreset:
    """One published variant of GRPO. None has a KL term or an entropy bonus of its own."""

    paper: str
    sets: str
    """The preset in a sentence."""
    ratio_level: Literal["token", "sequence"] = "token"
    """`token`: each token has its own importance ratio. `sequence`: all tokens of a rollout share the geometric
    mean."""
    surrogate: Surrogate = "clip"
    """What is maximised. `clip`: PPO's clipped ratio (arXiv:1707.06347). `detached`: the clipped ratio as a constant,
    times log p. `gate`: a sigmoid of the ratio instead of a clip."""
    clip_low: float
    """Ratios below 1 - `clip_low` give no gradient where the advantage is negative (`detached`: are raised to it)."""
    clip_high: float
    """Ratios above 1 + `clip_high` give no gradient where the advantage is positive (`detached`: are cut to it)."""
    normalizer: Normalizer
    """What the sum over tokens is divided by; see `loss.grpo.token_weights`."""
    correction: Correction = "token_truncate"
    gate_positive: float = 1.0
    gate_negative: float = 1.05
    paper_advantage_scale: Literal["none", "std"]
    """How the paper scales advantages. This loss does not: `rewards.advantage` computes them before."""


PRESETS: dict[str, LossPreset] = {
    "grpo": LossPreset(
        paper="https://arxiv.org/abs/2402.03300",
        sets="token ratio, clip 0.2 on both sides, mean over a rollout's tokens and then over rollouts",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="rollout_mean",
        paper_advantage_scale="std",
    ),
    "bnpo": LossPreset(
        paper="https://arxiv.org/abs/2506.02864",
        sets="grpo with one mean over all trained tokens of the batch; without the paper's Beta-normalised rewards",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="batch_tokens",
        paper_advantage_scale="none",
    ),
    "dr_grpo": LossPreset(
        paper="https://arxiv.org/abs/2503.20783",
        sets="grpo with the sum over tokens divided by rollouts and a constant length, so length is not rewarded",
        clip_low=0.2,
        clip_high=0.2,
        normalizer="constant_length",
        paper_advantage_scale="none",
    ),
    "dapo": LossPreset(
        paper="https://arxiv.org/abs/2503.14476",
        sets="clip 0.2 below and 0.28 above, one mean over all trained tokens of the batch; the paper's overlong "
        "shaping and dynamic sampling are `AdvantageSettings.overlong_longest` and `TrainConfig.extra_scenarios`",
        clip_low=0.2,
        clip_high=0.28,
        normalizer="batch_tokens",
        paper_advantage_scale="std",
    ),
    "gspo": LossPreset(
        paper="https://arxiv.org/abs/2507.18071",
        sets="one ratio a rollout, the geometric mean over its tokens, clipped at 3e-4 below and 4e-4 above",
        ratio_level="sequence",
        clip_low=3e-4,
        clip_high=4e-4,
        normalizer="rollout_mean",
        correction="none",
        paper_advantage_scale="std",
    ),
    "cispo": LossPreset(
        paper="https://arxiv.org/abs/2506.13585",
        sets="log p weighted by the ratio cut at 5, as a constant: every token keeps its gradient; mean over the batch",
        surrogate="detached",
        clip_low=_NO_LOWER_CLIP,
        clip_high=4.0,
        normalizer="batch_tokens",
        correction="none",
        paper_advantage_scale="std",
    ),
    "sapo": LossPreset(
        paper="https://arxiv.org/abs/2511.20347",
        sets="a sigmoid gate of temperature 1 (advantage above 0) or 1.05 in place of the clip; mean a rollout",
        surrogate="gate",
        clip_low=_NO_LOWER_CLIP,
        clip_high=float("inf"),
        normalizer="rollout_mean",
        correction="none",
        paper_advantage_scale="std",
    ),
}
"""Preset name → what it sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """A preset in which the settings' own numbers replaced the published ones: all that the loss needs to know."""

    ratio_level: Literal["token", "sequence"]
    surrogate: Surrogate
    low: float
    high: float
    correction: Correction
    cap: float
    normalizer: Normalizer
    constant_length: int
    gate_positive: float
    gate_negative: float
    kl_coef: float
    entropy_coef: float

    @property
    def by_sequence(self) -> bool:
        """Whether the loss of a token needs to know all tokens of its rollout."""
        return self.ratio_level == "sequence" or self.correction.startswith("sequence")

    @property
    def beyond_advantage(self) -> bool:
        """Whether a rollout without advantage has a gradient too."""
        return self.kl_coef > 0 or self.entropy_coef > 0


def loss_terms(settings: LossSettings) -> LossTerms:
    """Return the preset's values, replaced by those that `settings` names."""
    preset = PRESETS[settings.preset]
    return LossTerms(
        ratio_level=preset.ratio_level,
        surrogate=preset.surrogate,
        low=1 - (preset.clip_low if settings.clip_low is None else settings.clip_low),
        high=1 + (preset.clip_high if settings.clip_high is None else settings.clip_high),
        correction=settings.correction or preset.correction,
        cap=settings.importance_cap or _CAP,
        normalizer=settings.normalizer or preset.normalizer,
        constant_length=settings.constant_length or _CONSTANT_LENGTH,
        gate_positive=settings.gate_positive or preset.gate_positive,
        gate_negative=settings.gate_negative or preset.gate_negative,
        kl_coef=settings.kl_coef,
        entropy_coef=settings.entropy_coef,
    )
