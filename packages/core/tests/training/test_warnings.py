"""What goes quietly wrong in the first step is said, and says which."""

from __future__ import annotations

import pytest
from builders import TOOLS, asked, call, group, said, trajectory

import etude
from etude.training.warnings import check_rollouts, step_warnings
from etude.types import Failure, Message, ToolRequest


def _warned(*groups: etude.Group) -> str:
    return "\n".join(step_warnings(groups, tolerance=1e-3))


def test_a_healthy_step_warns_of_nothing() -> None:
    good = trajectory("a", call(asked("look"), tools=TOOLS))
    bad = trajectory("b", call(said("no idea"), tools=TOOLS))

    assert step_warnings([group((good, 1.0), (bad, 0.0))], 1e-3) == []


def test_tools_offered_and_never_called_is_a_warning() -> None:
    silent = [trajectory(i, call(said("4"), tools=TOOLS)) for i in "ab"]

    assert "not one tool was called in 2 answers" in _warned(group((silent[0], 1.0), (silent[1], 0.0)))


def test_no_model_call_at_all_is_a_warning_that_names_the_adapter() -> None:
    assert "no model call was recorded" in _warned(group((trajectory("a"), 1.0), (trajectory("b"), 0.0)))


def test_empty_tool_names_and_missing_ids_are_warnings() -> None:
    odd = Message(role="assistant", tool_requests=(ToolRequest(id="", name=" ", arguments="{}"),))
    member = trajectory("a", call(odd, tools=TOOLS))

    text = _warned(group((member, 1.0), (trajectory("b"), 0.0)))

    assert "1 of 1 tool calls have an empty name" in text
    assert "1 of 1 tool calls have no id" in text


def test_flat_scores_everywhere_are_a_warning() -> None:
    member = call(said("4"))

    assert "all 1 judged groups have equal scores" in _warned(
        group((trajectory("a", member), 0.5), (trajectory("b", member), 0.5))
    )


def test_a_group_without_a_verdict_is_a_warning_with_the_judges_reason() -> None:
    broken = group((trajectory("a", call(said("4"))), None), error=Failure(kind="JudgeError", message="answered prose"))

    assert "the first says: answered prose" in _warned(broken)


def test_a_step_whose_rollouts_all_failed_stops_the_run_with_the_reason() -> None:
    broken = [trajectory(i, failed=Failure(kind="KeyError", message="'city'")) for i in "abc"]

    with pytest.raises(etude.RolloutError, match=r"all 3 rollouts of the step failed.*KeyError: 'city'"):
        check_rollouts(broken)


def test_a_step_with_one_good_rollout_goes_on() -> None:
    check_rollouts([trajectory("a"), trajectory("b", failed=Failure(kind="KeyError", message="x"))])
