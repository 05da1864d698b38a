"""Whether a step's own rollouts measure its drift; the probe itself is tested on the real engine."""

from __future__ import annotations

import pytest
from builders import call, group, said, trajectory

from woodshed.engine import EngineClient
from woodshed.training.doctor.drift_probe import drift_by_probe, has_fresh_token
from woodshed.types import LossSettings, ModelCall


def sampled_by(*versions: int, superseded: bool = False, constrained: bool = False) -> ModelCall:
    made = call(said("4"), superseded=superseded)
    answer = made.tokens.completions[0].model_copy(update={"weight_versions": versions})
    tokens = made.tokens.model_copy(update={"completions": (answer,), "constrained": constrained})
    return made.model_copy(update={"tokens": tokens})


@pytest.mark.parametrize(
    ("calls", "is_fresh"),
    [
        ([sampled_by(2, 2), sampled_by(2, 3)], True),
        ([sampled_by(2, 2)], False),
        ([sampled_by(2, 2), sampled_by(3, 3, superseded=True)], False),
        ([sampled_by(2, 2), sampled_by(3, 3, constrained=True)], False),
        ([], False),
    ],
)
def test_a_token_is_fresh_if_it_is_trained_and_of_the_weights_that_the_step_changes(
    calls: list[ModelCall], is_fresh: bool
) -> None:
    groups = [group((trajectory("a", *calls), 1.0), (trajectory("b", sampled_by(3, 3)), 0.0))]

    assert has_fresh_token(groups, {"a"}, 3) == is_fresh


async def test_a_probe_that_is_not_answered_is_said_and_measures_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with EngineClient("http://127.0.0.1:9") as client:
        assert await drift_by_probe(client, "policy", {}, LossSettings()) == {}

    assert "drift between engine and trainer was not measured" in caplog.text
