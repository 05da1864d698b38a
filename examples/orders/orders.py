"""Orders from a shop's mailbox: messages made by rules, and the truth about each.

Messages to practise on and held-out ones come from different sentences, so a policy cannot know the latter by heart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ITEMS = ("lamp", "desk", "chair", "mug", "kettle", "rug", "clock", "mirror", "vase", "shelf", "sofa", "stool")
_CITIES = ("Oslo", "Paris", "Lima", "Cairo", "Rome", "Delhi", "Quito", "Dublin", "Tokyo", "Prague", "Boston", "Lagos")
_NUMBERS = {
    1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten",
    12: "a dozen",
}  # fmt: skip
_HASTE = {
    True: (" It is urgent.", " Express delivery, please.", " We need it by tomorrow.", " As fast as you can!"),
    False: ("", " There is no hurry.", " Standard delivery is fine.", " Take your time."),
}
_PRACTICE = (
    "Hi, please send {number} {things} to {city}.{haste}",
    "I would like to order {number} {things}. My address is in {city}.{haste}",
    "{number} {things} for our office in {city}, please.{haste}",
    "Hello! We need {number} {things} here in {city}.{haste}",
    "Could you ship {number} {things} to {city}?{haste}",
    "Our shop in {city} is out of stock: {number} {things}, please.{haste}",
    "Good morning, this is Ann from {city}. Put me down for {number} {things}.{haste}",
    "Please add {number} {things} to my order. Deliver to {city}.{haste}",
)
_HELD_OUT = (
    "Dear team, I am moving to {city} and want to buy {number} {things}.{haste}",
    "Can I get {number} {things}? I live in {city}.{haste}",
    "For {city}: {number} {things}. Thank you!{haste}",
    "My sister in {city} asked me for {number} {things}, so please send them to her.{haste}",
    "Is it possible to have {number} {things} delivered in {city}?{haste}",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A customer's message and the order it holds."""

    id: str
    text: str
    order: dict[str, Any]
    """`item` (singular), `quantity`, `city`, `express`."""


def practice(count: int = 160) -> Sequence[Message]:
    """Return messages to practise on."""
    return _messages("practice", _PRACTICE, count)


def held_out(count: int = 200) -> Sequence[Message]:
    """Return messages for the examination, in sentences that no practice message has."""
    return _messages("held-out", _HELD_OUT, count)


def right_share(answer: str, message: Message) -> float:
    """Return how right an answer is: 0 for no JSON object, .1 with other keys, else .2 and .2 for each right value.

    1 means that the order is complete and right. Nothing may stand beside the JSON.
    """
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    if set(found) != set(message.order):
        return 0.1
    right = [type(found[key]) is type(value) and found[key] == value for key, value in message.order.items()]
    return round(0.2 + 0.2 * sum(right), 1)


def _messages(name: str, sentences: Sequence[str], count: int) -> list[Message]:
    dice = random.Random(name)
    made: dict[str, Message] = {}
    while len(made) < count:
        item, city = dice.choice(_ITEMS), dice.choice(_CITIES)
        quantity, express = dice.choice(list(_NUMBERS)), dice.random() < 0.5
        word = dice.choice(("a", "one")) if quantity == 1 else _NUMBERS[quantity]
        text = dice.choice(sentences).format(
            number=word if dice.random() < 0.6 else quantity,
            things=item if quantity == 1 else "shelves" if item == "shelf" else f"{item}s",
            city=city,
            haste=dice.choice(_HASTE[express]),
        )
        text = text[0].upper() + text[1:]
        order = {"item": item, "quantity": quantity, "city": city, "express": express}
        made.setdefault(text, Message(id=f"{name}-{len(made)}", text=text, order=order))
    return list(made.values())
