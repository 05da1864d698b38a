"""Made-up attempts for the judge: right ones, and every kind of mistake that a policy makes while it learns."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from attempts import (
    Attempt,
    Turn,
    answer_text,
    arguments_for,
    call_text,
    oracle_call,
    other_item,
    parse_call,
    tool_answer,
)

from woodshed_tiny_world import Scenario, Shop
from woodshed_tiny_world.scenarios import WISHES
from woodshed_tiny_world.world import CURRENCIES

Call = tuple[str, Any]


def run(calls: list[Call], scenario: Scenario, shop: Shop, answer: str | None = None) -> Attempt:
    """Return the attempt that makes these calls and then answers, by default with the last result."""
    turns = [Turn(text=call_text(*c), result=tool_answer(*c, shop)) for c in calls]
    given = calls[-1][1].get("item", scenario.item) if isinstance(calls[-1][1], dict) else scenario.item
    return (*turns, Turn(text=answer_text(str(given), turns[-1].result or "") if answer is None else answer))


def right(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The right call and the right answer, sometimes worded otherwise."""
    call = oracle_call(scenario)
    result = tool_answer(*call, shop)
    if draw.random() < 0.9:
        return run([call], scenario, shop)
    return run([call], scenario, shop, draw.choice((f"{result}.", f"{scenario.item}: {result}", result)))


def _wrong_tool_call(scenario: Scenario, draw: random.Random) -> Call:
    name = draw.choice([w for w in WISHES if w != scenario.wish])
    return name, arguments_for(name, scenario, draw)


def wrong_tool(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The wrong tool, sometimes also with the wrong instrument, or called twice."""
    name, arguments = _wrong_tool_call(scenario, draw)
    if draw.random() < 0.15:
        arguments["item"] = other_item(scenario.item, draw)
    times = 2 if draw.random() < 0.1 else 1
    attempt = run([(name, arguments)] * times, scenario, shop)
    return (*attempt[:-1], Turn(text=_wrong_words(attempt, scenario, draw))) if draw.random() < 0.1 else attempt


def wrong_arguments(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The right tool with another instrument, the other currency, or something the shop doesn't sell."""
    name, arguments = oracle_call(scenario)
    arguments = dict(arguments)
    if scenario.currency and draw.random() < 0.6:
        arguments["currency"] = next(c for c in CURRENCIES if c != scenario.currency)
    elif draw.random() < 0.9:
        arguments["item"] = other_item(scenario.item, draw)
    else:
        arguments["item"] = scenario.item[: draw.randint(0, len(scenario.item) - 1)]
    attempt = run([(name, arguments)], scenario, shop)
    # An answer about the instrument asked for hides the mistake; the call still shows it.
    hides = draw.random() < 0.25
    return (*attempt[:-1], Turn(text=answer_text(scenario.item, attempt[0].result or ""))) if hides else attempt


def wrong_answer(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The right call, and an answer that doesn't give its result."""
    attempt = run([oracle_call(scenario)], scenario, shop)
    return (*attempt[:-1], Turn(text=_wrong_words(attempt, scenario, draw)))


def _wrong_words(attempt: Attempt, scenario: Scenario, draw: random.Random) -> str:
    result = attempt[-2].result or ""
    number, _, unit = result.partition(" ")
    other = draw.choice([str(n) for n in range(10, 100) if str(n) != number])
    units = [u for u in ("EUR", "USD", "left", "days") if u != unit]
    return draw.choices(
        (
            answer_text(scenario.item, f"{other} {unit}"),
            answer_text(scenario.item, f"{number} {draw.choice(units)}"),
            answer_text(other_item(scenario.item, draw), result),
            answer_text(scenario.item, f"{result} {other} {draw.choice(units)}"),
            draw.choice(
                (f"{scenario.item}", f"{scenario.item}:", f"{scenario.item}: .", f"{scenario.item}: {unit}.", ".", "?")
            ),
            "",
        ),
        (0.45, 0.15, 0.15, 0.08, 0.1, 0.07),
    )[0]


def roundabout(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The right answer after a needless call: the same one twice, or a wrong or refused one first."""
    good = oracle_call(scenario)
    kind = draw.random()
    if kind < 0.5:
        first: Call = good
    elif kind < 0.75:
        first = _wrong_tool_call(scenario, draw)
    else:
        first = _refused_call(scenario, draw)
    return run([first, good], scenario, shop)


def lost(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """The right call, then a wrong one and an answer from that."""
    return run([oracle_call(scenario), _wrong_tool_call(scenario, draw)], scenario, shop)


def _refused_call(scenario: Scenario, draw: random.Random) -> Call:
    name, arguments = oracle_call(scenario) if draw.random() < 0.6 else _wrong_tool_call(scenario, draw)
    arguments = dict(arguments)
    kind = draw.randrange(3)
    if kind == 0:
        return draw.choice((name.replace("get_", "find_"), name[:-1], "get_rent", "price", scenario.item)), arguments
    if kind == 1 and "currency" in arguments:
        return name, {"item": scenario.item} | draw.choice(({}, {"currency": "GBP"}, {"currency": scenario.item}))
    return name, {k: v for k, v in arguments.items() if k != "item"}


def refused(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """A call that no tool accepts (unknown name, missing arguments), then an invented answer, the error, or nothing."""
    call = _refused_call(scenario, draw)
    good = tool_answer(*oracle_call(scenario), shop)
    invented = f"{draw.randint(10, 99)} {good.partition(' ')[2]}"
    answer = draw.choice(
        (answer_text(scenario.item, invented), answer_text(scenario.item, good), f"{scenario.item}: .", "", None)
    )
    return run([call], scenario, shop, answer)


def malformed(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """Something that looks like a call but can't be parsed."""
    call = oracle_call(scenario) if draw.random() < 0.7 else _wrong_tool_call(scenario, draw)
    for _ in range(20):
        text = _damage(call_text(*call), draw)
        if parse_call(text) is None:
            return (Turn(text=text),)
    return (Turn(text=call_text(*call)[:-16]),)


def _damage(text: str, draw: random.Random) -> str:
    body = text.removesuffix("\n</tool_call>")
    place = draw.randrange(11, len(body))
    return draw.choice(
        (
            text.replace("}}", "}", 1),
            text.replace('"', "", 1),
            text[:place] + text[place + draw.randint(1, 6) :],
            body[:place],
            text.removeprefix("<tool_call>\n"),
            text.replace('": "', '": ', 1),
            text + text[place:],
        )
    )


def no_call(scenario: Scenario, shop: Shop, draw: random.Random) -> Attempt:
    """A guess without any call, sometimes even a true one."""
    good = tool_answer(*oracle_call(scenario), shop)
    guess = good if draw.random() < 0.4 else f"{draw.randint(10, 99)} {draw.choice(('EUR', 'USD', 'left', 'days'))}"
    words = (answer_text(scenario.item, guess), f"{guess}.", "", f"{scenario.item}.", scenario.question)
    return (Turn(text=draw.choices(words, (0.6, 0.1, 0.15, 0.1, 0.05))[0]),)


Kind = Callable[[Scenario, Shop, random.Random], Attempt]
KINDS: dict[Kind, float] = {
    right: 0.25,
    wrong_tool: 0.16,
    wrong_arguments: 0.2,
    wrong_answer: 0.18,
    roundabout: 0.06,
    lost: 0.02,
    refused: 0.05,
    malformed: 0.05,
    no_call: 0.03,
}
"""Every kind of attempt, and how often a mixed group holds it."""
