"""A thread of mails between two people, and what may be asked of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from company import STAFF, Person

YEAR_BEGINS = date(2025, 1, 6)
_THREADS_BEGIN_WITHIN_DAYS = 280
_GREETINGS = ("Dear {name},", "Hello {name},", "Hi {name},", "Good morning {name},")
_CLOSINGS = ("Best wishes\n{name}", "Kind regards\n{name}", "Regards, {name}", "All the best\n{name}")
_THANKS = (
    "Thank you, that suits me.", "Fine with me, thanks.", "Perfect, thank you.", "Thanks, I have made a note of it.",
    "Agreed. Thank you for the quick answer.",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail before the archive gives it an id."""

    sent: datetime
    sender: Person
    to: Person
    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A question about a thread."""

    kind: str
    text: str
    truth: str
    proof: tuple[int, ...]
    """The places in the thread of the mails that state the truth; all of them are needed."""


@dataclass(slots=True)
class Thread:
    """Mails about one matter between one of us and somebody else, oldest first."""

    dice: random.Random
    theirs: Person
    subject: str
    ours: Person = field(init=False)
    begins: date = field(init=False)
    drafts: list[Draft] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Choose who of us writes, and when it begins."""
        self.ours = self.dice.choice(STAFF)
        self.begins = working_day(YEAR_BEGINS + timedelta(self.dice.randrange(_THREADS_BEGIN_WITHIN_DAYS)))

    @property
    def last_day(self) -> date:
        """The day of the newest mail."""
        return self.drafts[-1].sent.date() if self.drafts else self.begins

    def we_write(self, *sentences: str) -> int:
        """Add a mail of ours, and return its place in the thread."""
        return self._write(self.ours, self.theirs, self.ours.first, sentences)

    def they_write(self, *sentences: str) -> int:
        """Add a mail to us, and return its place in the thread."""
        return self._write(self.theirs, self.ours, self.theirs.name, sentences)

    def thanks(self) -> str:
        """Return words that agree and state no fact."""
        return self.dice.choice(_THANKS)

    def day_in(self, least: int, most: int) -> date:
        """Return a working day, so many days after the newest mail."""
        return working_day(self.last_day + timedelta(self.dice.randint(least, most)))

    def _write(self, sender: Person, to: Person, signed: str, sentences: tuple[str, ...]) -> int:
        day = self.day_in(1, 2) if self.drafts else self.begins
        sent = datetime(day.year, day.month, day.day, self.dice.randint(8, 17), self.dice.randrange(60))
        greeting, closing = self.dice.choice(_GREETINGS), self.dice.choice(_CLOSINGS)
        body = "\n\n".join((greeting.format(name=to.first), " ".join(sentences), closing.format(name=signed)))
        subject = f"Re: {self.subject}" if self.drafts else self.subject
        self.drafts.append(Draft(sent, sender, to, subject, body))
        return len(self.drafts) - 1


def working_day(day: date) -> date:
    """Return the day, or the Monday after it."""
    return day + timedelta({5: 2, 6: 1}.get(day.weekday(), 0))
