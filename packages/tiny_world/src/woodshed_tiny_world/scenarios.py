"""Questions to practise on, and questions held out of every training.

Every wish and instrument is asked about in three wordings. One of the three is held out, another one from instrument to
instrument: each wording is practised with other instruments, and each instrument in the other wordings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from woodshed_tiny_world.world import CURRENCIES, INSTRUMENTS, TOOL_NAMES, Currency

Wish = Literal["get_price", "get_stock", "get_delivery"]
WISHES: tuple[Wish, ...] = ("get_price", "get_stock", "get_delivery")

QUESTIONS: dict[Wish, tuple[str, ...]] = {
    "get_price": (
        "How much is the {item} in {currency}?",
        "What does the {item} cost in {currency}?",
        "Tell me the price of the {item} in {currency}.",
    ),
    "get_stock": (
        "Is the {item} still in stock?",
        "How many of the {item} do you have?",
        "Can I pick up the {item} today?",
    ),
    "get_delivery": (
        "When would the {item} arrive?",
        "How long do you need to send the {item}?",
        "How soon can the {item} be at my door?",
    ),
}


class Scenario(BaseModel):
    """One question, and what only the verifier may look at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    question: str
    wish: Wish
    """The tool that answers the question; seen by the verifier alone."""
    item: str
    wording: int
    """Which of the wish's three wordings the question has."""
    currency: Currency | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """The arguments of the call that answers the question."""
        return {"item": self.item} | ({"currency": self.currency} if self.currency else {})


def is_held_out(wish: Wish, item: str, wording: int) -> bool:
    """Say whether this question is kept for evaluation."""
    return (INSTRUMENTS.index(item) + WISHES.index(wish)) % len(QUESTIONS[wish]) == wording


def all_scenarios() -> tuple[Scenario, ...]:
    """Return every question of the world, in a fixed order."""
    return tuple(
        Scenario(
            id="-".join(filter(None, (wish.removeprefix("get_"), item.lower(), currency, str(number)))),
            question=question.format(item=item, currency=currency),
            wish=wish,
            item=item,
            wording=number,
            currency=currency,
        )
        for wish in WISHES
        for item in INSTRUMENTS
        for currency in (CURRENCIES if wish == "get_price" else (None,))
        for number, question in enumerate(QUESTIONS[wish])
    )


def train_scenarios() -> tuple[Scenario, ...]:
    """Return the questions to practise on."""
    return tuple(s for s in all_scenarios() if not is_held_out(s.wish, s.item, s.wording))


def held_out_scenarios() -> tuple[Scenario, ...]:
    """Return the questions no training has seen."""
    return tuple(s for s in all_scenarios() if is_held_out(s.wish, s.item, s.wording))


assert WISHES == TOOL_NAMES
