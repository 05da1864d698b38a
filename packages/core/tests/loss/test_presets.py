"""Promises of the presets: one for every name a user can write, and readable without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any, get_args

import pytest

from woodshed.errors import ConfigError
from woodshed.loss.presets import PRESETS, loss_terms
from woodshed.types import LossSettings, OpenPolicy
from woodshed.types.loss import Preset


def test_every_preset_a_user_can_name_exists() -> None:
    assert set(PRESETS) == set(get_args(Preset))


def test_dapo_clips_higher_than_it_clips_low() -> None:
    assert (PRESETS["dapo"].clip_low, PRESETS["dapo"].clip_high) == (0.2, 0.28)


def test_presets_advantages_and_rows_need_no_torch() -> None:
    code = (
        "import sys, woodshed.loss.presets, woodshed.rewards.advantage, woodshed.tokens, woodshed.engine.trainer;"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_win_over_the_preset_and_the_rest_is_its_own() -> None:
    terms = loss_terms(LossSettings(preset="dapo", clip_high=0.5, normalizer="constant_length", constant_length=9))

    assert (terms.low, terms.high, terms.normalizer, terms.constant_length) == (0.8, 1.5, "constant_length", 9)
    assert (terms.correction, terms.cap) == ("token_truncate", 2.0)


def test_every_preset_says_its_paper_and_what_it_sets() -> None:
    for name, preset in PRESETS.items():
        assert preset.paper.startswith("https://arxiv.org/abs/"), name
        assert len(preset.sets) > 40, name


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"preset": "gspo", "correction": "token_truncate"}, "bounds the importance ratio itself"),
        ({"preset": "cispo", "importance_cap": 2.0}, "nothing is corrected"),
        ({"preset": "grpo", "correction": "none", "importance_cap": 2.0}, "nothing is corrected"),
        ({"preset": "sapo", "clip_high": 0.2}, "its gate replaces the clip"),
        ({"preset": "grpo", "gate_positive": 1.0}, "only 'sapo' has a gate"),
        ({"preset": "dapo", "constant_length": 64}, "the normalizer is not 'constant_length'"),
        ({"drift_warn": 0.5, "drift_stop": 0.1}, "drift_stop (0.1) is below drift_warn (0.5)"),
        ({"preset": "gppo"}, "LossSettings.preset"),
        ({"kl_coef": -1.0}, "LossSettings.kl_coef"),
        ({"beta": 0.1}, "LossSettings.beta"),
    ],
)
def test_contradictions_and_bad_values_are_refused_at_construction(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        LossSettings(**wrong)


@pytest.mark.parametrize("preset", get_args(Preset))
def test_settings_survive_the_wire(preset: Preset) -> None:
    policy = OpenPolicy(name="p", loss=LossSettings(preset=preset, kl_coef=0.1))

    assert OpenPolicy.model_validate_json(policy.model_dump_json()) == policy
