"""What goes quietly wrong in the first step is said, and says which."""

from __future__ import annotations

from typing import get_args

import pytest
from builders import TOOLS, asked, call, group, said, trajectory

import woodshed
from woodshed.training.report.diagnostics import DRIFT_EVERY, check_rollouts, drift_unmeasured, step_warnings
from woodshed.types import Failure, ForkReason, Message, ToolRequest


def _warned(*groups: woodshed.Group) -> str:
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

    assert "all 1 scored groups have equal scores" in _warned(
        group((trajectory("a", member), 0.5), (trajectory("b", member), 0.5))
    )


def test_a_group_without_a_verdict_is_a_warning_with_the_judges_reason() -> None:
    broken = group((trajectory("a", call(said("4"))), None), error=Failure(kind="JudgeError", message="answered prose"))

    assert "the first error: answered prose" in _warned(broken)


def test_a_step_whose_rollouts_all_failed_stops_the_run_with_the_reason() -> None:
    broken = [trajectory(i, failed=Failure(kind="KeyError", message="'city'")) for i in "abc"]

    with pytest.raises(woodshed.RolloutError, match=r"all 3 rollouts of the step failed.*KeyError: 'city'"):
        check_rollouts(broken)


def test_a_step_with_one_good_rollout_goes_on() -> None:
    check_rollouts([trajectory("a"), trajectory("b", failed=Failure(kind="KeyError", message="x"))])


def _two_turns(rollout_id: str, *, prompt_ids: tuple[int, ...], fork: ForkReason | None = None) -> woodshed.Trajectory:
    """Two calls, of which the second sends the first one's answer (tokens 7 and 8 behind 1, 2, 3) back."""
    first = call(said("4"), call_id="first")
    turns = (*first.tokens.messages, said("4"), Message(role="user", content="Sure?"))
    second = call(said("Yes"), call_id="second", messages=turns, prompt_ids=prompt_ids)
    tokens = second.tokens.model_copy(update={"started_s": 1.0, "fork": fork})
    return trajectory(rollout_id, first, second.model_copy(update={"tokens": tokens}))


def test_histories_that_go_on_token_by_token_are_no_warning() -> None:
    good = _two_turns("a", prompt_ids=(1, 2, 3, 7, 8, 9))

    assert step_warnings([group((good, 1.0), (trajectory("b", call(said("5"))), 0.0))], 1e-3) == []


def test_histories_that_do_not_go_on_are_a_warning_with_the_likely_reason_and_what_to_do() -> None:
    forked = _two_turns("a", prompt_ids=(1, 2, 3, 70, 80, 9), fork="template_rewrites")

    text = _warned(group((forked, 1.0), (trajectory("b", call(said("5"))), 0.0)))

    assert "only 0.00 of the re-sent sampled tokens matched the original tokens (tokens/merge_ratio" in text
    assert "Most often, in 1 calls, template_rewrites: the chat template renders earlier turns differently" in text
    assert "turn thinking off" in text


def test_every_reason_of_a_fork_has_its_advice() -> None:
    forked = {why: _two_turns("a", prompt_ids=(1, 2, 3, 70, 80, 9), fork=why) for why in get_args(ForkReason)}

    assert [why for why, t in forked.items() if f"{why}: " not in _warned(group((t, 1.0)))] == []
    assert [why for why, t in forked.items() if "gave no reason" in _warned(group((t, 1.0)))] == []


def test_drift_that_cannot_be_measured_for_some_steps_is_said_once() -> None:
    measured, blind = {"trained": True, "train/logprob_drift_fresh": 0.0}, {"trained": True}
    untrained = {"trained": False}

    said_at = [n for n in range(1, 3 * DRIFT_EVERY) if drift_unmeasured([measured, *[blind, untrained] * n])]

    assert said_at == [DRIFT_EVERY]
    assert drift_unmeasured([*[blind] * DRIFT_EVERY, measured]) is None


def test_groups_with_fewer_than_two_scores_are_not_called_equal() -> None:
    group_of_none = group((trajectory("a", call(said("x"))), None), (trajectory("b", call(said("y"))), None))

    assert "equal scores" not in _warned(group_of_none)
