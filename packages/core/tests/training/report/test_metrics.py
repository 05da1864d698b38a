"""What judging cost is a figure only where it is known."""

from __future__ import annotations

import pytest
from builders import call, group, said, trajectory

from woodshed.training.config import AdvantageSettings
from woodshed.training.report.diagnostics import step_warnings
from woodshed.training.report.metrics import cost_usd, step_row
from woodshed.training.rollouts.groups import StepGroups
from woodshed.types import Failure, Group, StepReport


def _judged(requests: int, usd: float | None) -> Group:
    found = group((trajectory("a", call(said("x"))), 1.0), (trajectory("b", call(said("y"))), 0.0))
    assert found.judgement is not None
    return found.model_copy(
        update={"judgement": found.judgement.model_copy(update={"requests": requests, "cost_usd": usd})}
    )


@pytest.mark.parametrize(
    ("bills", "total"),
    [([(2, 0.25), (1, 0.5)], 0.75), ([(2, 0.25), (1, None)], None), ([(2, 0.25), (0, None)], 0.25)],
    ids=["known", "a price is unknown", "nothing was asked"],
)
def test_a_step_costs_what_its_verdicts_did_if_all_are_known(
    bills: list[tuple[int, float | None]], total: float | None
) -> None:
    batch = StepGroups(groups=tuple(_judged(*bill) for bill in bills), flat=0, extra=0, seconds=1.0)
    report = StepReport(step_id="s", version=1, trained=True, metrics={})

    row = step_row(0, batch, report, stale=(), wait_s=0.0, train_s=0.0)

    assert row["judge_cost_usd"] == total


def test_a_run_costs_nothing_it_does_not_know() -> None:
    assert cost_usd([0.1, None]) is None
    assert cost_usd([]) == 0.0


def test_a_rollout_that_counts_as_a_failure_is_not_called_masked() -> None:
    overflow = Failure(kind="BadRequestError", message="long", cause="overflow")
    groups = (
        group((trajectory("a", call(said("x"))), 1.0), (trajectory("b", call(said("y")), failed=overflow), None)),
    )
    sampled = StepGroups(groups=groups, flat=0, extra=0, seconds=1.0)
    report = StepReport(step_id="s", version=1, trained=True, metrics={})

    def told(settings: AdvantageSettings) -> tuple[int, str]:
        row = step_row(0, sampled, report, stale=(), wait_s=0.0, train_s=0.0, settings=settings)
        return row["masked"], "; ".join(step_warnings(groups, 1e-3, settings))

    masked, warned = told(AdvantageSettings())
    assert masked == 1 and "1 of 2 rollouts failed and are masked" in warned and "overflowed='fail'" in warned
    masked, warned = told(AdvantageSettings(overflowed="fail"))
    assert masked == 0 and "masked" not in warned and "1 of 2 rollouts grew longer" in warned
