"""Replacing a function of vLLM's, or a loud refusal where vLLM no longer has it; runs inside vLLM's own processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import vllm

from woodshed.errors import EngineError


def replace_function(owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """Put `make(original)` in the place of `owner.name`.

    Raises:
        EngineError: vLLM has no such function, or one with other parameters: this patch was written for another vLLM.
    """
    where = f"{getattr(owner, '__module__', '')}.{getattr(owner, '__qualname__', owner.__name__)}".lstrip(".")
    if name not in vars(owner):
        raise EngineError(f"vLLM {vllm.__version__} has no {where}.{name}. {_ADVICE}")
    static = vars(owner)[name]
    is_method = isinstance(static, staticmethod | classmethod)
    original = static.__func__ if is_method else static
    made = make(original)
    wanted, found = _parameters(made), _parameters(original)
    if not _fits(wanted, found):
        raise EngineError(
            f"vLLM {vllm.__version__} calls {where}.{name} with {found}, woodshed's patch expects {wanted}. {_ADVICE}"
        )
    setattr(owner, name, type(static)(made) if is_method else made)


_ADVICE = "`woodshed engine install` brings the vLLM that woodshed's patches were written for and tested with"


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters; `**` where the rest is passed on as it is."""
    parameters = inspect.signature(function).parameters.values()
    return ["**" if p.kind is p.VAR_KEYWORD else p.name for p in parameters]


def _fits(wanted: list[str], found: list[str]) -> bool:
    if wanted and wanted[-1] == "**":
        return found[: len(wanted) - 1] == wanted[:-1]
    return wanted == found
