"""The music shop: one SQLite database and the three tools that read it."""

# No `from __future__ import annotations` here: CrewAI's `tool` takes annotations for types, not for text.
import random
import sqlite3
import threading
from functools import cache
from typing import Literal

INSTRUMENTS = (
    "Violin", "Viola", "Cello", "Flute", "Oboe", "Clarinet", "Bassoon", "Trumpet", "Trombone", "Tuba",
    "Horn", "Harp", "Piano", "Organ", "Guitar", "Banjo", "Lute", "Drum", "Cymbal", "Marimba",
)  # fmt: skip
Currency = Literal["EUR", "USD"]
CURRENCIES: tuple[Currency, ...] = ("EUR", "USD")
SYSTEM_PROMPT = "You are the clerk of a music shop. Look it up, then answer."
"""What every clerk is told, whatever framework it is written in."""
TOOL_NAMES = ("get_price", "get_stock", "get_delivery")


class Shop:
    """What the shop knows, in an SQLite database that many threads may read."""

    def __init__(self, seed: int = 0) -> None:
        """Fill the database; the same seed gives the same shop."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE TABLE instruments (item TEXT PRIMARY KEY, eur INT, usd INT, stock INT, days INT)"
        )
        draw = random.Random(seed)
        rows = [(item, *(draw.randint(10, 99) for _ in range(4))) for item in INSTRUMENTS]
        self._database.executemany("INSERT INTO instruments VALUES (?, ?, ?, ?, ?)", rows)

    def price(self, item: str, currency: Currency) -> str:
        """Return the price, such as `57 EUR`."""
        return self._answer("eur" if currency == "EUR" else "usd", item, f"{{}} {currency}")

    def stock(self, item: str) -> str:
        """Return how many are left, such as `12 left`."""
        return self._answer("stock", item, "{} left")

    def delivery(self, item: str) -> str:
        """Return how long a delivery takes, such as `34 days`."""
        return self._answer("days", item, "{} days")

    def _answer(self, column: Literal["eur", "usd", "stock", "days"], item: str, form: str) -> str:
        with self._lock:
            found = self._database.execute(f"SELECT {column} FROM instruments WHERE item = ?", (item,)).fetchone()
        return form.format(found[0]) if found else f"no {item!r} here"


@cache
def open_shop(seed: int = 0) -> Shop:
    """Return the shop of this process."""
    return Shop(seed)


def get_price(item: str, currency: Currency) -> str:
    """Price of an item."""
    return open_shop().price(item, currency)


def get_stock(item: str) -> str:
    """How many are left."""
    return open_shop().stock(item)


def get_delivery(item: str) -> str:
    """Days to deliver an item."""
    return open_shop().delivery(item)
