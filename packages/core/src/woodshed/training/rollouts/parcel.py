"""What is sent to a worker: the rollout function and its scenarios, pickled; and why something cannot be sent."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from woodshed.capture import RolloutFunction, instrumented
from woodshed.capture.user_frames import USER_MODULE
from woodshed.errors import ConfigError

_DEPTH = 12
"""How many steps lead at most from a function to what in it cannot be pickled."""


def worker_parcel(cloudpickle: Any, function: RolloutFunction) -> bytes:
    """Return the rollout function, pickled, with the hooks and log levels of this process.

    Functions of a program, a notebook or the file given to the command line travel with their code; those of a module
    by its name.

    Raises:
        ConfigError: it cannot be pickled; names the variable or attribute.
    """
    for name, module in list(sys.modules.items()):
        # No other process can import it by that name.
        if name.startswith(USER_MODULE):
            cloudpickle.register_pickle_by_value(module)
    kinds = instrumented()
    shown = f"{function.name}()"
    function_bytes = _pickled(cloudpickle, function.function, f"the rollout function {shown}", shown)
    return bytes(cloudpickle.dumps({"function": function_bytes, "instrumentors": kinds, "levels": _levels()}))


def scenario_parcel(cloudpickle: Any, scenario: Any, name: str) -> bytes:
    """Return a scenario, pickled.

    Raises:
        ConfigError: it cannot be pickled; names the attribute.
    """
    return _pickled(cloudpickle, scenario, f"a scenario ({name})", name)


def _pickled(cloudpickle: Any, value: Any, what: str, name: str) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        path, part = _culprit(cloudpickle, value, name)
        kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
        raise ConfigError(
            f"{what} cannot be sent to a worker: {path} is a {kind}, which cannot be pickled ({error}). Make it inside "
            "the function (or on its first call), or move the function with all it uses into a module that the "
            "workers can import"
        ) from None


def _culprit(cloudpickle: Any, value: Any, name: str) -> tuple[str, Any]:
    """Return the path to the innermost part that cannot be pickled, and the part.

    `ray.util.inspect_serializability` looks into no list or dict, and reads every property on its way.
    """
    seen: set[int] = set()
    for _ in range(_DEPTH):
        seen.add(id(value))
        for label, part in _parts(value, name):
            if id(part) not in seen and not _is_picklable(cloudpickle, part):
                name, value = label, part
                break
        else:
            break
    return name, value


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield what a value is pickled with, each with the path to it."""
    if inspect.isfunction(value):
        variables = inspect.getclosurevars(value)
        for variable, part in {**variables.nonlocals, **variables.globals}.items():
            yield f"{name} → {variable}" + ("()" if inspect.isfunction(part) else ""), part
        for variable, part in inspect.signature(value).parameters.items():
            yield f"{name} → the default of {variable}", part.default
    elif inspect.ismethod(value):
        yield f"{name} → self", value.__self__
    elif isinstance(value, functools.partial):
        yield f"{name} → {getattr(value.func, '__name__', 'func')}()", value.func
        yield from _parts([*value.args], f"{name} → args")
        yield from _parts(value.keywords, f"{name} → keywords")
    elif isinstance(value, Mapping):
        yield from ((f"{name}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{name}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, type):
        yield from ((f"{name}.{key}", part) for key, part in vars(value).items() if key != "__dict__")
    else:
        wrapped = getattr(value, "__wrapped__", None)
        if inspect.isfunction(wrapped):
            yield name, wrapped
        for key, part in getattr(value, "__dict__", {}).items():
            yield f"{name}.{key}", part
        for key, part in (getattr(value, "__pydantic_private__", None) or {}).items():
            yield f"{name}.{key}", part
        yield f"{name}'s class", type(value)


def _is_picklable(cloudpickle: Any, value: Any) -> bool:
    try:
        cloudpickle.dumps(value)
    except Exception:
        return False
    return True


def _levels() -> dict[str, int]:
    """Return the levels of woodshed's loggers, so that workers say no more and no less than this process."""
    known = logging.root.manager.loggerDict.items()
    own = {n: logger.level for n, logger in known if n.startswith("woodshed") and isinstance(logger, logging.Logger)}
    return {**own, "woodshed": logging.getLogger("woodshed").getEffectiveLevel()}


def missing_module(name: str) -> str:
    """Say of a module that a worker cannot import what to do, by where this process has it from."""
    module = sys.modules.get(name) or sys.modules.get(name.partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is None or "site-packages" in Path(file).parts:
        return (
            f"it has no module {name!r}: install its package on the node, or let Ray do it: "
            f"RayWorkers(runtime_env={{'pip': [...]}})"
        )
    path, outermost = Path(file), name.partition(".")[0]
    folder = next((folder for folder in path.parents if folder.name == outermost), None)
    env: dict[str, Any] = {"working_dir": str(path.parent)} if folder is None else {"py_modules": [str(folder)]}
    return f"the module {name!r} exists only here ({file}): send it along with RayWorkers(runtime_env={env!r})"
