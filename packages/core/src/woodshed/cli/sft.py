"""`woodshed sft`: command-line arguments → an SFT training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.training.config import Policy
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.dataset import Choice
from woodshed.training.sft.run import SftTraining, sft_training
from woodshed.types import LoraSettings, OptimizerSettings


def engine_at(url: str | None, api_key: str | None) -> LocalEngine | ConnectedEngine:
    """Return the engine at `url`, or a local one."""
    return Engine.local() if url is None else Engine.connect(url, api_key=api_key)


def build(
    source: Path,
    *,
    model: str | None,
    rank: int | None,
    max_model_len: int | None,
    chat_template: Path | None,
    choice: Choice,
    engine: LocalEngine | ConnectedEngine,
    run_dir: Path | None,
    fresh: bool,
    track: str = "",
    learning_rate: float,
    **settings: Any,
) -> SftTraining:
    """Return the SFT training that the command-line arguments describe."""
    config = SftConfig(optimizer=OptimizerSettings(learning_rate=learning_rate), **settings)
    training = sft_training(
        source, policy=model, choice=choice, engine=engine, config=config, run_dir=run_dir, fresh=fresh, track=track
    )
    changes: dict[str, Any] = {"max_model_len": max_model_len} if max_model_len is not None else {}
    if chat_template is not None:
        changes["chat_template"] = str(chat_template)
    if rank is not None:
        changes["lora"] = LoraSettings(rank=rank, alpha=2.0 * rank)
    policy = Policy(**{**training.policy.model_dump(exclude_unset=True), **changes})
    return replace(training, policy=policy)
