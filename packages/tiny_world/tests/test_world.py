"""The shop answers truthfully, the same way every time, from every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from woodshed_tiny_world import Shop, get_delivery, get_price, get_stock, open_shop
from woodshed_tiny_world.world import INSTRUMENTS


def test_the_same_seed_gives_the_same_shop() -> None:
    told = [[Shop(seed).price(item, "EUR") for item in INSTRUMENTS] for seed in (0, 0, 1)]

    assert told[0] == told[1]
    assert told[0] != told[2]


def test_the_tools_say_what_the_database_holds() -> None:
    shop = open_shop()

    assert get_price("Tuba", "EUR") == shop.price("Tuba", "EUR")
    assert get_price("Tuba", "USD") == shop.price("Tuba", "USD")
    assert get_stock("Tuba") == shop.stock("Tuba")
    assert get_delivery("Tuba") == shop.delivery("Tuba")
    assert get_stock("Tuba").endswith(" left")
    assert get_delivery("Tuba").endswith(" days")


@pytest.mark.parametrize("item", ["Kazoo", "", "tuba", "'; DROP TABLE instruments; --"])
def test_an_unknown_item_is_named_in_the_answer(item: str) -> None:
    assert get_stock(item) == f"no {item!r} here"


def test_many_threads_read_one_shop() -> None:
    with ThreadPoolExecutor(16) as threads:
        told = list(threads.map(get_stock, INSTRUMENTS * 20))

    assert told == [open_shop().stock(item) for item in INSTRUMENTS] * 20
