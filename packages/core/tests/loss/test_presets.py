"""Promises of the presets: one for every name a user can write, and readable without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

from etude.loss.presets import PRESETS
from etude.types.wire import Preset


def test_every_preset_a_user_can_name_exists() -> None:
    assert set(PRESETS) == set(get_args(Preset))


def test_dapo_clips_higher_than_it_clips_low() -> None:
    assert (PRESETS["dapo"].clip_low, PRESETS["dapo"].clip_high) == (0.2, 0.28)


def test_presets_advantages_and_rows_need_no_torch() -> None:
    code = (
        "import sys, etude.loss.presets, etude.rewards.advantage, etude.tokens, etude.engine.trainer;"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
