"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal

from woodshed.errors import WoodshedError
from woodshed.types import Record

Status = Literal["pass", "warn", "fail"]


class Finding(Record):
    """One line of the doctor's report."""

    check: str
    status: Status
    found: str
    advice: str = ""
    """What to do; empty where all is well."""


def passed(check: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, status="pass", found=found)


def warned(check: str, found: str, advice: str) -> Finding:
    """Return something that may be meant, and may be what goes wrong."""
    return Finding(check=check, status="warn", found=found, advice=advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return something with which a run is wasted."""
    return Finding(check=check, status="fail", found=found, advice=advice)


async def guarded(check: str, looking: Awaitable[Finding], advice: str) -> Finding:
    """Return the finding of a check, and where woodshed itself refuses to go on, that as a failure."""
    try:
        return await looking
    except WoodshedError as error:
        return failed(check, f"{type(error).__name__}: {error}", advice)
