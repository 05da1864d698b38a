"""The verifier knows the truth about every kind of attempt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from woodshed.types import Completion, Message, ModelCall, TokenCall, ToolRequest, Trajectory
from woodshed_tiny_world import Level, all_scenarios, open_shop, verify
from woodshed_tiny_world.verifier import says

PRICE = next(s for s in all_scenarios() if s.id == "price-tuba-EUR-0")
STOCK = next(s for s in all_scenarios() if s.id == "stock-tuba-0")
RIGHT = ("get_stock", {"item": "Tuba"})


def attempt(answer: str | None, *calls: tuple[str, Any]) -> Trajectory:
    """A trajectory that makes the calls and then answers."""
    messages = [Message(role="system", content="s"), Message(role="user", content="q")]
    for number, (name, arguments) in enumerate(calls):
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        messages.append(
            Message(role="assistant", tool_requests=(ToolRequest(id=f"c{number}", name=name, arguments=text),))
        )
        messages.append(Message(role="tool", content="…", tool_call_id=f"c{number}"))
    last = Completion(
        index=0, message=Message(role="assistant", content=answer), token_ids=(), logprobs=(), weight_versions=()
    )
    tokens = TokenCall(call_id="c", started_s=0.0, latency_s=0.0, messages=tuple(messages), completions=(last,))
    return Trajectory(rollout_id="r", scenario_id="s", calls=(ModelCall(tokens=tokens),))


def stock(item: str = "Tuba") -> str:
    return f"{item}: {open_shop().stock(item)}."


@pytest.mark.parametrize(
    ("made", "level", "success"),
    [
        (attempt(stock(), RIGHT), Level.CORRECT, 1.0),
        (attempt(stock(), ("get_stock", {"item": "Tuba", "note": "ignored by the tool"})), Level.CORRECT, 1.0),
        (attempt(stock(), RIGHT, RIGHT), Level.ROUNDABOUT, 1.0),
        (attempt(stock(), ("get_rent", {"item": "Tuba"}), RIGHT), Level.ROUNDABOUT, 1.0),
        (attempt("Tuba: 7 left.", RIGHT), Level.WRONG_ANSWER, 0.0),
        (attempt("", RIGHT), Level.WRONG_ANSWER, 0.0),
        (attempt(None, RIGHT), Level.WRONG_ANSWER, 0.0),
        (attempt(stock().replace("Tuba", "Viola"), RIGHT), Level.WRONG_ANSWER, 0.0),
        (attempt(stock("Viola"), ("get_stock", {"item": "Viola"})), Level.WRONG_ARGUMENTS, 0.0),
        (attempt("no", ("get_stock", {"item": "Tub"})), Level.WRONG_ARGUMENTS, 0.0),
        (attempt(stock(), ("get_delivery", {"item": "Tuba"})), Level.WRONG_TOOL, 0.0),
        (attempt(stock()), Level.BROKEN, 0.0),
        (attempt(stock(), ("get_rent", {"item": "Tuba"})), Level.BROKEN, 0.0),
        (attempt(stock(), ("get_stock", {})), Level.BROKEN, 0.0),
        (attempt(stock(), ("get_stock", "{not json")), Level.BROKEN, 0.0),
        (attempt(stock(), ("get_stock", "[1]")), Level.BROKEN, 0.0),
    ],
)
def test_every_kind_of_attempt_has_its_level(made: Trajectory, level: Level, success: float) -> None:
    verdict = verify(made, STOCK)

    assert (verdict.level, verdict.success) == (level, success)


def test_the_other_currency_is_a_wrong_argument() -> None:
    answer = f"Tuba: {open_shop().price('Tuba', 'USD')}."

    assert (
        verify(attempt(answer, ("get_price", {"item": "Tuba", "currency": "USD"})), PRICE).level
        is Level.WRONG_ARGUMENTS
    )
    assert verify(attempt(answer, ("get_price", {"item": "Tuba"})), PRICE).level is Level.BROKEN


def test_a_rollout_without_any_answer_is_broken() -> None:
    assert verify(Trajectory(rollout_id="r", scenario_id="s"), STOCK).level is Level.BROKEN


@pytest.mark.parametrize("hedge", ["12 left or 13 left", "112 left", "12 leftish of the Viola", "12", "12 days"])
def test_an_answer_that_hedges_does_not_say_the_fact(hedge: str) -> None:
    assert not says(hedge, "12 left", "Tuba")
