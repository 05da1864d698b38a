"""The base of all settings: a value that cannot be used is a `ConfigError` with field, found value and expectation."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from woodshed.errors import ConfigError
from woodshed.types.record import Record


class Settings(Record):
    """A record that reports bad values as a `ConfigError`, one line per field."""

    def __init__(self, **values: Any) -> None:
        """Check the values.

        Raises:
            ConfigError: one line for every value that cannot be used.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(_problem(type(self), dict(e)) for e in error.errors())) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change a setting."""
        raise ConfigError(
            f"{type(self).__name__}.{name} cannot be changed to {value!r}: settings are fixed once they are made. "
            f"Make new ones: {type(self).__name__}({name}=...)"
        )


def _problem(kind: type[Settings], error: Mapping[str, Any]) -> str:
    """Return what is wrong with one value: the field, what was expected, and what was found."""
    own = error.get("ctx", {}).get("error")
    if isinstance(own, ConfigError):
        return str(own)  # of settings inside these ones; it names the field itself
    field = f"{kind.__name__}.{'.'.join(map(str, error['loc']))}" if error["loc"] else kind.__name__
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        name = str(error["loc"][0])
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {sorted(kind.model_fields)}"
        return f"{field}: there is no such setting; found {name}={error.get('input')!r}; {hint}"
    if error["type"] == "missing":
        return f"{field}: is required and was not given"
    if own is not None:
        return f"{field}: {own}"
    return f"{field}: {error['msg']}; found {error.get('input')!r}"


def check_number(
    owner: object,
    name: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    whole: bool = False,
) -> None:
    """Check a number of settings that are a dataclass.

    Raises:
        ConfigError: it is not a number, not a whole one, or out of range.
    """
    value = getattr(owner, name)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    is_kind = isinstance(value, numbers.Integral) if whole else is_number
    if is_number and is_kind and above < value < below and value >= at_least:
        return
    ends = [f"more than {above:g}"] if above > -math.inf else [f"at least {at_least:g}"]
    ends += [f"below {below:g}"] if below < math.inf else []
    kind = [] if is_number and is_kind else ["a whole number" if whole else "a number"]
    raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}; expected {', '.join([*kind, *ends])}")
