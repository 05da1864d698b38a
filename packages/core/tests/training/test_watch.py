"""A run that cannot learn says why, and stops."""

from __future__ import annotations

import pytest
from builders import call, group, said, trajectory

from woodshed import Group, NothingToLearn
from woodshed.training.report.diagnostics import step_warnings
from woodshed.training.report.signal import nothing_trained
from woodshed.training.watch import RunWatch
from woodshed.types import Failure, StepReport, Trajectory

REPORT = StepReport(step_id="s", version=0, trained=False)


def flat(value: float) -> Group:
    return group(*((trajectory(i, call(said(i))), value) for i in "ab"))


def constrained() -> Group:
    made = call(said("{}"))
    made = made.model_copy(update={"tokens": made.tokens.model_copy(update={"constrained": True})})
    return group((trajectory("a", made), 1.0), (trajectory("b", made), 0.0))


def failing() -> Group:
    judged = group((trajectory("a", call(said("x"))), 1.0), (trajectory("b", call(said("y"))), None))
    assert judged.judgement is not None
    failures = {"b": Failure(kind="KeyError", message="'answer'")}
    return judged.model_copy(update={"judgement": judged.judgement.model_copy(update={"failures": failures})})


CASES = {
    "solved": ([flat(1.0), flat(1.0)], "all 2 scored groups are solved (every score is 1).*harder ones"),
    "hopeless": ([flat(0.0)], "all 1 scored groups failed (every score is 0).*too hard.*partial success"),
    "in between": ([flat(0.5), flat(1.0)], "all 2 scored groups have equal scores.*temperature"),
    "constrained": ([constrained()], "all 2 answers were sampled under a constraint.*response_format.*tool_choice"),
    "unjudged": (
        [group((trajectory("a", call(said("x"))), None), error=Failure(kind="JudgeError", message="answered prose"))],
        "1 of 1 groups have no verdict and are masked; the first error: answered prose",
    ),
    "reward failed": (
        [failing()],
        "the reward of 1 rollouts failed (1 × KeyError) and masks them; the first: KeyError: 'answer'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_why_nothing_can_be_learned_is_said_at_the_first_step_and_where_the_run_stops(name: str) -> None:
    groups, text = CASES[name]
    parts = text.split(".*")

    warned = "\n".join(step_warnings(groups, 1e-3))

    assert all(part in warned for part in parts)
    assert all(part in nothing_trained(groups, REPORT, 1e-3) for part in parts)


def test_what_the_trainer_left_out_is_said_where_nothing_else_explains_it() -> None:
    report = REPORT.model_copy(update={"quarantined": {"a": "NaN advantage", "b": "NaN advantage"}})
    judged = group((trajectory("a", call(said("x"))), 1.0), (trajectory("b", call(said("y"))), 0.0))

    assert nothing_trained([judged], report, 1e-3) == "the trainer left out 2 rollouts: NaN advantage"


def test_a_run_stops_after_as_many_idle_steps_in_a_row_as_it_may_take() -> None:
    watch = RunWatch(stop_after=2)
    watch.step_taken(0, "flat", left=9)
    watch.step_taken(1, None, left=8)
    watch.step_taken(2, "flat", left=7)

    with pytest.raises(
        NothingToLearn, match=r"2 steps in a row, up to step 4.*one: no verdict.*6 steps to go.*same com"
    ):
        watch.step_taken(3, "no verdict", left=6)


@pytest.mark.parametrize(("stop_after", "left"), [(None, 5), (2, 0)])
def test_a_run_that_may_go_on_or_is_at_its_end_is_not_stopped(stop_after: int | None, left: int) -> None:
    watch = RunWatch(stop_after=stop_after)

    for step in range(4):
        watch.step_taken(step, "flat" if step < 1 or left or stop_after is None else None, left=left)


def test_rollouts_that_read_the_step_before_are_warned_of_once() -> None:
    text = "I counted four lamps on the shelf next to the window on the second floor."
    first = trajectory("one", call(said(text)))
    prompt = (said(text), *first.calls[0].tokens.messages)

    def read(rollout_id: str) -> Trajectory:
        made = call(said("4"), messages=(*first.calls[0].tokens.messages, *prompt))
        late = made.model_copy(update={"tokens": made.tokens.model_copy(update={"started_s": 9.0})})
        return trajectory(rollout_id, late)

    watch = RunWatch(stop_after=None)

    assert watch.shared_state([first]) == []
    assert len(watch.shared_state([read("two"), read("three")])) == 1
    assert watch.shared_state([read("four")]) == []
