"""`woodshed sft`: arguments → a warm-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from woodshed.engine.client.local import ConnectedEngine, Engine, LocalEngine
from woodshed.training.config import Policy
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.dataset import Choice
from woodshed.training.sft.run import WarmUp, warm_up
from woodshed.types import LoraSettings, OptimizerSettings


def engine_at(url: str | None, api_key: str | None) -> LocalEngine | ConnectedEngine:
    """Return the engine at an address, or one that is started here."""
    return Engine.local() if url is None else Engine.connect(url, api_key=api_key)


def build(
    source: Path,
    *,
    model: str | None,
    rank: int | None,
    max_model_len: int | None,
    choice: Choice,
    engine: LocalEngine | ConnectedEngine,
    run_dir: Path | None,
    fresh: bool,
    learning_rate: float,
    **numbers: Any,
) -> WarmUp:
    """Return the warm-up that a command line describes."""
    config = SftConfig(optimizer=OptimizerSettings(learning_rate=learning_rate), **numbers)
    warm = warm_up(source, policy=model, choice=choice, engine=engine, config=config, run_dir=run_dir, fresh=fresh)
    changes: dict[str, Any] = {"max_model_len": max_model_len} if max_model_len is not None else {}
    if rank is not None:
        changes["lora"] = LoraSettings(rank=rank, alpha=2.0 * rank)
    policy = Policy(**{**warm.policy.model_dump(), **changes})
    return replace(warm, policy=policy)
