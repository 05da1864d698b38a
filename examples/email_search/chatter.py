"""The mails that answer no question: newsletters, reminders and what colleagues write to each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

from company import STAFF, Person
from threads import YEAR_BEGINS, Draft, working_day

_SENDERS = (
    Person("Timber Weekly", "news@timberweekly.example"), Person("Town Hall", "notices@townhall.example"),
    Person("Office Cloud", "no-reply@officecloud.example"), Person("Joiners' Guild", "guild@joiners.example"),
)  # fmt: skip
_FROM_OUTSIDE = (
    (
        "This week in timber",
        "Prices of softwood stay calm. Read about drying larch, and about a saw mill that reopened.",
    ),
    ("Road works", "The road past your yard is closed for a while. Please use the lane behind the church."),
    ("Your storage is nearly full", "Delete what you no longer need, or ask your administrator for more room."),
    ("Evening of the guild", "We look at staircases of the last century. Members and friends are welcome."),
    ("Survey", "How content are you with us? It only takes a moment."),
)
_AMONG_US = (
    ("Lunch", "Soup or pasta today? I would order for all who answer before noon."),
    ("Keys", "Who has the keys of the store room? They are not on the hook."),
    ("Dust masks", "We are out of masks again. Whoever passes the hardware shop, please bring some."),
    ("Football", "We are short of a goalkeeper for the match against the plumbers."),
    ("Timesheets", "Please send me your timesheets before the weekend."),
    ("Radio", "Could whoever turns up the radio in the paint room turn it down again?"),
)
_ABOUT_SOMEBODY = (
    ("{name} called", "{name} called while you were out, and will write."),
    ("Has anybody answered {name}?", "I see a mail of {name} in the inbox. Is somebody on it?"),
    ("Invoice for {name}", "The invoice for {name} goes out with the next post. Nothing is missing."),
)


def chatter(dice: random.Random, about: Sequence[Person], count: int = 600) -> list[Draft]:
    """Return mails that state nothing one would ask for; some name a person who is also written to."""
    return [_draft(dice, about) for _ in range(count)]


def _draft(dice: random.Random, about: Sequence[Person]) -> Draft:
    day = working_day(YEAR_BEGINS + timedelta(dice.randrange(340)))
    sent = datetime(day.year, day.month, day.day, dice.randint(7, 18), dice.randrange(60))
    sender, to = dice.sample(STAFF, 2)
    subject, words = dice.choice(dice.choice((_FROM_OUTSIDE, _AMONG_US, _ABOUT_SOMEBODY)))
    if (subject, words) in _FROM_OUTSIDE:
        sender = dice.choice(_SENDERS)
    name = dice.choice(about).name
    body = f"Hi {to.first},\n\n{words.format(name=name)}\n\n{sender.first}"
    return Draft(sent, sender, to, subject.format(name=name), body)
