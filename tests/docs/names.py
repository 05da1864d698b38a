"""What a block that isn't run names of woodshed: does it exist, and does it take these keyword arguments?"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import woodshed
from woodshed.types import Settings

_UNKNOWN = object()


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with the imports, names and keyword arguments of a block."""
    tree = ast.parse(text)
    known: dict[str, Any] = {"woodshed": woodshed}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("woodshed"):
                    importlib.import_module(alias.name)
                    name = alias.asname or alias.name.partition(".")[0]
                    known[name] = importlib.import_module(alias.name if alias.asname else name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("woodshed"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{node.module} has no {alias.name}"
                else:
                    known[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _value(node, known) is None:
            yield f"there is no {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and callable(called := _value(node.func, known)):
            yield from _unknown_keywords(node, called)


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    """Return what a dotted name stands for; None where the last part doesn't exist, `_UNKNOWN` where nobody knows."""
    if isinstance(node, ast.Name):
        return known.get(node.id, _UNKNOWN)
    if not isinstance(node, ast.Attribute):
        return _UNKNOWN
    owner = _value(node.value, known)
    if owner is _UNKNOWN or owner is None or not (inspect.ismodule(owner) or inspect.isclass(owner)):
        return _UNKNOWN
    return getattr(owner, node.attr, None)


def _unknown_keywords(call: ast.Call, called: Callable[..., Any]) -> Iterator[str]:
    given = [keyword.arg for keyword in call.keywords if keyword.arg is not None]
    if isinstance(called, type) and issubclass(called, Settings):
        taken = set(called.model_fields)
    else:
        parameters = inspect.signature(called).parameters.values()
        taken = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if called in (woodshed.train, woodshed.train_async):
            taken |= set(woodshed.TrainConfig.model_fields)
        elif any(p.kind == p.VAR_KEYWORD for p in parameters):
            return
    for name in given:
        if name not in taken:
            yield f"{ast.unparse(call.func)} takes no {name}"
