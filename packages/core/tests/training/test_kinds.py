"""What a run is given is checked before any work: each mistake has a message that says what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

import woodshed
from woodshed.errors import ConfigError

GOOD: dict[str, Any] = {
    "rollout": lambda scenario: None,
    "scenarios": ["a"],
    "policy": woodshed.Policy("some/model"),
    "reward": woodshed.FunctionReward(lambda trajectory: 1.0),
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("scenarios", "abc", r"scenarios is a str; expected a list .*scenarios=\[...\]"),
        ("scenarios", 3, "scenarios is a int"),
        ("scenarios", iter(["abc"]), "scenarios is a list_iterator"),
        ("policy", "Qwen/Qwen3-4B", r"policy is a str; .*policy=woodshed.Policy\('Qwen/Qwen3-4B'\)"),
        ("policy", None, "policy is a NoneType"),
        ("reward", lambda t: 1.0, r"reward is a function.*reward=woodshed.FunctionReward\(f\)"),
        ("reward", "gpt-5-mini", r"reward is a str.*woodshed.Ruler"),
    ],
)
def test_something_else_than_it_is_called_is_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        woodshed.Training(**{**GOOD, name: value})
