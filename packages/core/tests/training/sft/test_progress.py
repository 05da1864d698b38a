"""What SFT prints at its end can be pasted: a run that starts so has the prompts and the LoRA that were trained."""

from __future__ import annotations

import pytest

import woodshed
from woodshed.training.sft.progress import start_of


@pytest.mark.parametrize(
    "settings", [{}, {"chat_template": "mine.jinja"}, {"lora": woodshed.LoraSettings(rank=8, alpha=16.0)}]
)
def test_the_printed_start_of_a_run_is_the_policy_that_was_trained(settings: dict[str, object]) -> None:
    policy = woodshed.Policy("m/m", **settings)

    printed = start_of(policy, "runs/sft/adapter")

    names = {"Policy": woodshed.Policy, "LoraSettings": woodshed.LoraSettings}
    assert eval(printed, names) == policy.model_copy(update={"adapter": "runs/sft/adapter"})
    assert ("lora" in printed, "chat_template" in printed) == ("lora" in settings, "chat_template" in settings)
