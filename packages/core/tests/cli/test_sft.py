"""`woodshed sft`'s arguments become the policy that is trained."""

from __future__ import annotations

from pathlib import Path

from woodshed.cli.sft import build, engine_at
from woodshed.training.sft.dataset import Choice
from woodshed.types import LoraSettings


def test_the_arguments_become_the_policys_settings(tmp_path: Path) -> None:
    training = build(
        tmp_path / "talks.jsonl",
        model="model.gguf",
        rank=8,
        max_model_len=256,
        chat_template=Path("mine.jinja"),
        choice=Choice(),
        engine=engine_at(None, None),
        run_dir=None,
        fresh=False,
        learning_rate=1e-3,
        epochs=1,
        track="tensorboard",
    )

    policy = training.policy
    assert (policy.model, policy.max_model_len, policy.chat_template) == ("model.gguf", 256, "mine.jinja")
    assert policy.lora == LoraSettings(rank=8, alpha=16.0)
    assert training.track == "tensorboard"
    assert (training.config.epochs, training.config.optimizer.learning_rate) == (1, 1e-3)
