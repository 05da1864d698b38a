"""OpenAI clients that are closed when the test ends: one left to the garbage collector warns of its open socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest

OpenClient = Callable[..., openai.OpenAI]


@pytest.fixture
def client() -> Iterator[OpenClient]:
    """Return a function that opens a client."""
    with ExitStack() as until_the_end:

        def opened(base_url: str, key: str = "any", *, max_retries: int = 0, **options: Any) -> openai.OpenAI:
            made = openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, **options)
            return until_the_end.enter_context(made)

        yield opened
