"""A tiny world to practise in: a music shop with real tools, its questions, its truth, a small policy and a small judge."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from etude_tiny_world.scenarios import Scenario, all_scenarios, held_out_scenarios, train_scenarios
from etude_tiny_world.verifier import Level, Verdict, verify, verify_messages
from etude_tiny_world.world import Shop, get_delivery, get_price, get_stock, open_shop

__all__ = [
    # the world and its questions
    "Scenario",
    "Shop",
    "all_scenarios",
    "get_delivery",
    "get_price",
    "get_stock",
    "held_out_scenarios",
    "open_shop",
    "train_scenarios",
    # the truth
    "Level",
    "Verdict",
    "verify",
    "verify_messages",
    # the models
    "judge_path",
    "policy_path",
]


def policy_path() -> Path:
    """Return the folder of the tiny policy: config, tokenizer and weights."""
    return _weights("policy")


def judge_path() -> Path:
    """Return the folder of the tiny judge: config, tokenizer and weights."""
    return _weights("judge")


def _weights(name: str) -> Path:
    return Path(str(resources.files("etude_tiny_world"))) / "weights" / name
