"""Where a rollout function comes from: what tells two functions of one name apart."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A function's qualified name and file."""

    name: str
    file: Path | None
    """None for a function without a file that stays, such as one from a notebook's cell."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Source:
        """Return the source of a function, or of an object that is called like one."""
        function = inspect.unwrap(function)
        while isinstance(function, functools.partial):
            function = inspect.unwrap(function.func)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        try:
            named = inspect.getsourcefile(
                function if hasattr(function, "__qualname__") else inspect.unwrap(type(function).__call__)
            )
        except TypeError:  # built in
            named = None
        file = Path(named).resolve() if named is not None else None
        return cls(name=str(name), file=file if file is not None and file.is_file() else None)

    def described(self, runs: Path) -> dict[str, str | None]:
        """Return plain JSON, with the file relative to the folder `runs`: both may be moved together."""
        file = None if self.file is None else Path(os.path.relpath(self.file, runs.resolve())).as_posix()
        return {"name": self.name, "file": file}

    def matches(self, stored: dict[str, Any] | None, runs: Path) -> bool:
        """Whether a run that was stored with `described` is of this function; one without a description may be."""
        own = self.described(runs)
        if not stored or stored.get("file") is None or own["file"] is None:
            return not stored or stored.get("name") == own["name"]
        return {k: stored.get(k) for k in own} == own
