"""The agent's three tools: search the archive, read a mail, answer."""

# No `from __future__ import annotations` here: CrewAI and ADK take annotations for types, not for text.
from datetime import date

from archive import Hit, words_of
from make_archive import open_archive


def search_mail(words: str, sender: str = "", after: str = "", before: str = "") -> str:
    """Find mails that have all the words. sender: part of a name. after, before: days, such as 2025-03-31."""
    wanted = words_of(f"{words}")
    if not wanted:
        return f"Nothing to search for in {words!r}: give words, such as a name and a thing."
    try:
        limits = {"sender": f"{sender or ''}", "after": _day(after), "before": _day(before)}
    except ValueError as error:
        return str(error)
    if hits := open_archive().search(wanted, **limits):
        return f"Newest first:\n{_listed(hits)}"
    hits = open_archive().search(wanted, every=False, **limits)
    if not hits:
        return f"No mail has any of these words: {' '.join(wanted)}"
    return f"No mail has all of these words: {' '.join(wanted)}. Some of them have:\n{_listed(hits)}"


def read_mail(id: str) -> str:
    """Read the mail with this id, such as m0412."""
    mail = open_archive().read(f"{id}")
    if mail is None:
        return f"There is no mail {id!r}; search_mail lists ids."
    return f"{mail.id}, {mail.sent}\nFrom: {mail.sender}\nTo: {mail.recipient}\nSubject: {mail.subject}\n\n{mail.body}"


def answer(text: str, sources: list[str]) -> str:
    """Answer the question in one sentence, and end. sources: ids of the mails that prove it."""
    return f"Answered: {text}"


def _listed(hits: list[Hit]) -> str:
    return "\n".join(f"{h.id}, {h.sent[:10]}, {h.sender.split(' <')[0]}, {h.subject}: {_line(h)}" for h in hits)


def _line(hit: Hit) -> str:
    return " ".join(hit.excerpt.split())


def _day(text: str) -> str:
    try:
        return date.fromisoformat(f"{text}").isoformat() if text else ""
    except ValueError:
        raise ValueError(f"{text!r} is no day; write it as 2025-03-31.") from None
