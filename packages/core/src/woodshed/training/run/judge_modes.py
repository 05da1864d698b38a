"""The modes of a run's judges: chosen before its first step, stored with it, and kept when it is resumed."""

from __future__ import annotations

import json

from woodshed.rewards.base import Reward
from woodshed.rewards.mode_trial import ModeTable
from woodshed.rewards.prepare import prepared
from woodshed.training.run.store import RunStore

_FACT = "judge_modes"


async def with_modes(reward: Reward, store: RunStore) -> Reward:
    """Return the reward with a concrete mode for each `Ruler(mode="auto")`; a resumed run keeps those it began with.

    Raises:
        CheckError: a judge is no better than a coin.
        CostCeilingError: the trial would exceed the ruler's cost ceiling.
    """
    decided = mode_tables(store)
    ready, tables = await prepared(reward, {t.judge: t for t in decided})
    if tables and not decided:
        store.save_fact(_FACT, [t.model_dump(mode="json") for t in tables])
    return ready


def mode_tables(store: RunStore) -> tuple[ModeTable, ...]:
    """Return how each judge did in each mode, if the run had to choose."""
    return tuple(ModeTable.model_validate_json(json.dumps(t)) for t in store.fact(_FACT) or ())
