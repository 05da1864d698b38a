"""A year of Rowan & Pike, made by rules and a seed: the mails, and the questions one may ask of them.

python examples/email_search/make_archive.py --to archive.db     # then: sqlite3 archive.db 'SELECT * FROM mail'
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import company
from archive import Archive, Mail
from chatter import chatter
from company import Half
from stories import appointment, order, repair, supply
from threads import Ask, Draft, Thread

SEED = 0
HALVES: tuple[Half, ...] = ("practice", "held-out")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what only the examination may look at."""

    id: str
    text: str
    kind: str
    truth: str
    """The facts of the right answer, such as `19 March at 14:30`."""
    proof: tuple[str, ...]
    """Ids of the mails that state the truth; all of them are needed."""
    thread: tuple[str, ...]
    """Ids of all mails of the matter."""
    half: Half


@cache
def open_archive(seed: int = SEED) -> Archive:
    """Return the archive of this process."""
    return Archive(written(seed)[0])


def practice(seed: int = SEED, count: int = 240) -> Sequence[Question]:
    """Return questions to practise on."""
    return _questions("practice", seed, count)


def held_out(seed: int = SEED, count: int = 80) -> Sequence[Question]:
    """Return questions for the examination, about persons and things of which no practice question is."""
    return _questions("held-out", seed, count)


def _questions(half: Half, seed: int, count: int) -> Sequence[Question]:
    found = [question for question in written(seed)[1] if question.half == half]
    return random.Random(f"{half}/{seed}").sample(found, min(count, len(found)))


@cache
def written(seed: int = SEED) -> tuple[Sequence[Mail], Sequence[Question]]:
    """Return all mails, oldest first, and all questions; the same seed gives the same archive."""
    dice = random.Random(f"archive/{seed}")
    told = [(half, *story) for half in HALVES for story in _stories(dice, half)]
    drafts = [draft for _, thread, _ in told for draft in thread.drafts]
    drafts += chatter(dice, [thread.theirs for _, thread, _ in told])
    drafts.sort(key=lambda draft: draft.sent)
    ids = {id(draft): f"m{number:04}" for number, draft in enumerate(drafts, 1)}
    mails = [_mail(ids[id(draft)], draft) for draft in drafts]
    questions = [_question(half, thread, ask, ids) for half, thread, ask in told]
    return mails, questions


def _stories(dice: random.Random, half: Half) -> Iterator[tuple[Thread, Ask]]:
    plots: tuple[tuple[Callable[..., tuple[Thread, Ask]], Sequence[Any], Sequence[Any], int], ...] = (
        (order, company.customers(half), company.GOODS[half], 5),
        (appointment, company.customers(half), company.PROJECTS[half], 4),
        (supply, company.suppliers(half), company.MATERIALS[half], 5),
        (repair, company.repairers(half), company.MACHINES[half], 4),
    )
    for tell, people, things, most in plots:
        for person in people:
            for thing in dice.sample(things, min(most, len(things))):
                yield tell(dice, person, thing)


def _mail(id: str, draft: Draft) -> Mail:
    people = [f"{person.name} <{person.address}>" for person in (draft.sender, draft.to)]
    return Mail(id, draft.sent.isoformat(" ", "minutes"), *people, draft.subject, draft.body)


def _question(half: Half, thread: Thread, ask: Ask, ids: dict[int, str]) -> Question:
    of_thread = tuple(ids[id(draft)] for draft in thread.drafts)
    proof = tuple(of_thread[place] for place in ask.proof)
    return Question(f"{ask.kind}-{proof[-1]}", ask.text, ask.kind, ask.truth, proof, of_thread, half)


def main() -> None:
    """Write the archive to a file, and show what is in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the archive ({SEED})")
    parser.add_argument("--to", type=Path, required=True, help="SQLite file to write; it must not exist")
    given = parser.parse_args()
    if given.to.exists():
        parser.error(f"{str(given.to)!r} exists; name a new file")
    mails, questions = written(given.seed)
    archive = Archive(mails, given.to)
    print(f"{len(mails)} mails in {str(given.to)!r}; {len(questions)} questions, such as:")
    for question in held_out(given.seed)[:3]:
        print(f"\n{question.text}  → {question.truth}, by {', '.join(question.proof)}:")
        for mail in filter(None, map(archive.read, question.thread)):
            print(f"  {mail.id}  {mail.sent}  {mail.sender}: {mail.body.splitlines()[2]}")


if __name__ == "__main__":
    main()
