"""What happens at Rowan & Pike: orders, appointments, prices and repairs, in which somebody often changes a plan.

A mail states a fact once, and a later one may change it. So each question has one truth, and the mails that prove it
are known.
"""

from __future__ import annotations

import random
from datetime import timedelta

from company import PLACES, Person
from facts import day_text
from threads import Ask, Thread, working_day

_BUYERS = ("our new house", "the office", "my parents", "our guest rooms", "the club", "a friend's shop")
_WOODS = ("oak", "ash", "maple", "larch")


def order(dice: random.Random, customer: Person, thing: str) -> tuple[Thread, Ask]:
    """A customer orders furniture; its number, price or day may change."""
    things, count, price = plural(thing), dice.randint(3, 9), dice.randrange(480, 4800, 20)
    thread, wood = Thread(dice, customer, things.capitalize()), dice.choice(_WOODS)
    counted = thread.they_write(
        f"We need {count} {things} for {dice.choice(_BUYERS)}. What would they cost, and when could you deliver?"
    )
    day = thread.day_in(20, 45)
    priced = dated = thread.we_write(
        f"The {things} come to {price:,} EUR in {wood}, all of them together.", f"We could deliver on {day_text(day)}."
    )
    thread.they_write(thread.thanks())
    change = dice.choice(("count", "price", "day", "nothing"))
    if change == "count":
        count += dice.choice((-1, 1, 2, 3))
        price += 60 * dice.randint(1, 9)
        counted = thread.they_write(f"We have measured again: please make it {count}. The rest stays.")
        priced = thread.we_write(f"No trouble. The {things} are {price:,} EUR together then.")
    elif change == "price":
        price -= 20 * dice.randint(1, 9)
        priced = thread.we_write(f"The wood was cheaper than I thought: you pay {price:,} EUR for all.")
    elif change == "day":
        day = working_day(day + timedelta(dice.randint(3, 14)))
        dated = thread.we_write(f"I am sorry: the {wood} is late. We can't deliver before {day_text(day)}.")
    thread.they_write(thread.thanks())
    asks = {
        "count": Ask("count", f"How many {things} does {customer.name} get?", f"{count}", (counted,)),
        "price": Ask("price", f"What does {customer.name} pay for the {things}?", f"{price:,} EUR", (priced,)),
        "day": Ask("day", f"On which day do we deliver the {things} to {customer.name}?", day_text(day), (dated,)),
    }
    return thread, _chosen(dice, asks, change)


def appointment(dice: random.Random, customer: Person, project: str) -> tuple[Thread, Ask]:
    """We arrange to meet a customer; day, time or place may change."""
    thread = Thread(dice, customer, f"Plans for the {project}")
    place, quieter = dice.sample(PLACES, 2)
    day, hour, minute = thread.day_in(7, 20), dice.randint(8, 16), dice.choice(("00", "15", "30", "45"))
    first = placed = thread.we_write(
        f"Shall we go through the plans for the {project} on {day_text(day)} at {hour}:{minute}?", f"I suggest {place}."
    )
    timed: tuple[int, ...] = (first,)
    thread.they_write(thread.thanks())
    change = dice.choice(("day", "time", "place", "nothing"))
    either, other = dice.sample((thread.we_write, thread.they_write), 2)
    if change == "day":
        day = working_day(day + timedelta(dice.randint(1, 9)))
        timed = (first, either(f"Could we meet on {day_text(day)} instead? At the same time."))
    elif change == "time":
        hour += -1 if hour > 11 else 1
        timed = (first, either(f"Could we meet at {hour}:{minute} instead? On the same day."))
    elif change == "place":
        place = quieter
        placed = either(f"Let us meet at {place} instead, it is quieter. Day and time stay.")
    other(thread.thanks())
    when, asked = f"{day_text(day)} at {hour}:{minute}", f"do we meet {customer.name} about the {project}?"
    asks = {
        "meeting": Ask("meeting", f"On which day and at what time {asked}", when, timed),
        "place": Ask("place", f"Where {asked}", place, (placed,)),
    }
    return thread, _chosen(dice, asks, "place" if change == "place" else "meeting")


def supply(dice: random.Random, firm: Person, material: tuple[str, str]) -> tuple[Thread, Ask]:
    """A firm tells us its price for a material, and may change it."""
    what, unit = material
    thread, price = Thread(dice, firm, f"Price of {what}"), dice.randint(12, 90)
    per = f"per {unit} of {what}"
    last = thread.they_write(f"As you asked: it is {price} EUR {per}.", "We would be glad to hear from you.")
    thread.we_write(thread.thanks())
    if dice.random() < 0.6:
        price += dice.choice((-4, -3, -2, 2, 3, 5, 8))
        last = thread.they_write(f"Our own costs have changed. From now on we charge {price} EUR {per}.")
        thread.we_write(thread.thanks())
    return thread, Ask("supply", f"What does {firm.name} charge {per}?", f"{price} EUR", (last,))


def repair(dice: random.Random, firm: Person, machine: str) -> tuple[Thread, Ask]:
    """A firm mends a machine; it comes on another day, or takes another price than it said."""
    thread, price = Thread(dice, firm, f"Repair of our {machine}"), dice.randrange(120, 900, 10)
    fault = dice.choice(("makes a loud noise", "stops after a minute", "no longer starts", "smells of burning"))
    thread.we_write(f"Our {machine} {fault}. When could you come, and what would it cost?")
    day = thread.day_in(4, 9)
    dated = priced = thread.they_write(f"We could come on {day_text(day)}. Expect some {price} EUR.")
    thread.we_write(thread.thanks())
    change = dice.choice(("visit", "bill"))
    if change == "visit":
        day = working_day(day + timedelta(dice.randint(1, 6)))
        dated = thread.they_write(f"We are short of people and come on {day_text(day)} instead.")
    else:
        price += 10 * dice.randint(2, 20)
        priced = thread.they_write(f"The {machine} runs again. It took longer, so the bill is {price} EUR.")
    thread.we_write(thread.thanks())
    asks = {
        "visit": Ask("visit", f"On which day does {firm.name} come for the {machine}?", day_text(day), (dated,)),
        "bill": Ask(
            "bill", f"What does {firm.name} charge for the repair of the {machine}?", f"{price} EUR", (priced,)
        ),
    }
    return thread, _chosen(dice, asks, change)


def plural(thing: str) -> str:
    """Return the plural of a piece of furniture."""
    if thing.endswith("shelf"):
        return f"{thing.removesuffix('f')}ves"
    return f"{thing}es" if thing.endswith("ch") else f"{thing}s"


def _chosen(dice: random.Random, asks: dict[str, Ask], changed: str) -> Ask:
    """Return mostly the question about what has changed."""
    return asks[changed] if changed in asks and dice.random() < 0.7 else dice.choice(list(asks.values()))
