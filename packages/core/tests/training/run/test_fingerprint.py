"""What a run must have again is the same in every process, and tells what is another run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from woodshed.training.run.fingerprint import scenarios_identity

PRINTS = """
import woodshed
from woodshed.training.run.fingerprint import scenarios_identity, stable_repr

class Odd:
    pass

def score(trajectory): return 1.0
async def taste(system, user, schema): return "{}"

blend = woodshed.Blend((1, woodshed.FunctionReward(score)), (2, woodshed.Ruler(taste)))
print(stable_repr(blend), scenarios_identity([{"tags": {"a", "b", "c"}, "odd": Odd()}]))
"""


def test_rewards_and_scenarios_are_known_again_by_another_process() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", PRINTS], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "12"
    ]

    assert "function score" in said[0]
    assert said[0] == said[1]


@dataclass
class Task:
    id: str
    text: str


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["Buy milk", "Buy bread"], ["Buy bread", "Buy milk"]),
        ([{"id": "a", "text": "Buy milk"}], [{"id": "a", "text": "Buy bread"}]),
        ([Task("a", "Buy milk")], [Task("a", "Buy bread")]),
        ([{(1, 2): "Buy milk"}], [{(1, 2): "Buy bread"}]),
    ],
)
def test_another_text_under_an_old_id_is_another_scenario(before: list[Any], after: list[Any]) -> None:
    assert scenarios_identity(before)["ids"] == scenarios_identity(after)["ids"]
    assert scenarios_identity(before) != scenarios_identity(after)
    assert scenarios_identity(before) == scenarios_identity(list(before))
