"""The scripted talks of examples/shop_real are right, in each framework's own words, and hold no held-out question."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from woodshed.training.sft.conversation_file import examples_of_file
from woodshed_tiny_world import held_out_scenarios, train_scenarios
from woodshed_tiny_world.agents import CLERKS, rollout_of

EXAMPLE = Path(__file__).parents[1] / "examples" / "shop_real"


@pytest.fixture
def talks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("talks", EXAMPLE / "talks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # CrewAI's own, of its imports and of its deprecated fields
@pytest.mark.parametrize("framework", CLERKS)
def test_a_talk_asks_a_practice_question_calls_its_tool_and_says_what_it_returned(
    talks: ModuleType, framework: str, tmp_path: Path
) -> None:
    file = talks.write_talks(rollout_of(framework), tmp_path / "talks.jsonl", count=3, seed=1)

    found = examples_of_file(file)
    assert len(found) == 3
    for talk in found:
        asked = next(m["content"] for m in talk.messages if m["role"] == "user")
        (scenario,) = (s for s in train_scenarios() if s.question in asked)
        assert not any(s.question in asked for s in held_out_scenarios())
        assert [m["role"] for m in talk.messages] == ["system", "user", "assistant", "tool", "assistant"]
        (call,) = talk.messages[2]["tool_calls"]
        assert call["function"]["name"] == scenario.wish
        assert json.loads(call["function"]["arguments"]) == scenario.arguments
        told = talk.messages[3]["content"]
        said = json.loads(told)["result"] if told.startswith("{") else told
        assert said in talk.messages[4]["content"] and scenario.item in talk.messages[4]["content"]
        assert {t["function"]["name"] for t in talk.tools} == {"get_price", "get_stock", "get_delivery"}
