"""A tiny world to practise in: a music shop with real tools, its questions, its truth, a policy and a judge."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from woodshed_tiny_world.scenarios import Scenario, all_scenarios, held_out_scenarios, train_scenarios
from woodshed_tiny_world.verifier import Level, Verdict, verify, verify_messages
from woodshed_tiny_world.world import Shop, get_delivery, get_price, get_stock, open_shop

if TYPE_CHECKING:
    from woodshed.engine import ServedModel

__all__ = [
    "Level",
    "Scenario",
    "Shop",
    "Verdict",
    "all_scenarios",
    "get_delivery",
    "get_price",
    "get_stock",
    "held_out_scenarios",
    "judge_model",
    "judge_path",
    "open_shop",
    "policy_path",
    "train_scenarios",
    "verify",
    "verify_messages",
]


def policy_path() -> Path:
    """Return the folder of the tiny policy: config, tokenizer and weights."""
    return _weights("policy")


def judge_path() -> Path:
    """Return the folder of the tiny judge: config, tokenizer and weights."""
    return _weights("judge")


def judge_model() -> ServedModel:
    """Return the tiny judge as an engine serves it: it writes verdicts, and calls no tools."""
    from woodshed.engine import ServedModel

    return ServedModel(name="judge", path=str(judge_path()), tool_call_parser=None)


def _weights(name: str) -> Path:
    return Path(str(resources.files("woodshed_tiny_world"))) / "weights" / name
