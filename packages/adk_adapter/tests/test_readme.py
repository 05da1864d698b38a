"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from running import QUIET

from woodshed.capture import RolloutFunction
from woodshed.testing import ScriptedEngine, call_tool, in_order, say, scripted_rollout

pytestmark = QUIET


@pytest.mark.parametrize("name", ["answer", "attempt"])
async def test_the_examples_are_recorded(engine: ScriptedEngine, name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    engine.script = in_order(call_tool("stock", item="lamps"), say("There are 7 lamps."))
    assert isinstance(names[name], RolloutFunction)

    with scripted_rollout(engine) as rollout:
        await names[name]("How many lamps?")

    trajectory = engine.trajectory(rollout)
    assert [call.note.agent for call in trajectory.calls if call.note] == ["clerk", "clerk"]
    assert [tool.result for tool in trajectory.tool_calls] == ['{"result": "7 of lamps"}']
