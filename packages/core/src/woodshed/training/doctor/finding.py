"""The result of one check, and what to do about it."""

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
    """What the check found."""
    advice: str = ""
    """What to do; empty if the check passed."""


def passed(check: str, result: str) -> Finding:
    """Return a finding of a check that passed."""
    return Finding(check=check, status="pass", found=result)


def warned(check: str, result: str, advice: str) -> Finding:
    """Return a finding that may be a problem."""
    return Finding(check=check, status="warn", found=result, advice=advice)


def failed(check: str, result: str, advice: str) -> Finding:
    """Return a finding with which a run cannot succeed."""
    return Finding(check=check, status="fail", found=result, advice=advice)


async def guarded(check: str, check_result: Awaitable[Finding], advice: str) -> Finding:
    """Return the finding of a check; an error of woodshed becomes a failed finding."""
    try:
        return await check_result
    except WoodshedError as error:
        return failed(check, f"{type(error).__name__}: {error}", advice)
