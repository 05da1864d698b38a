"""Where in the user's own code an exception was raised, without the frames of frameworks, Python and woodshed."""

from __future__ import annotations

import sysconfig
import traceback
from functools import cache
from pathlib import Path
from types import TracebackType

USER_MODULE = "woodshed_user_"
"""Prefix of the name under which the command line loads a user's file."""


def user_traceback(error: BaseException) -> str | None:
    """Return the traceback of an exception with the frames of the user's own code only; None if it has none.

    The exceptions that caused it, and those in a group, are shown in the same way.
    """
    shown = traceback.TracebackException.from_exception(error)
    kept = _filter(shown, error, set())
    return "".join(shown.format()).rstrip() if kept or isinstance(error, SyntaxError) else None


def user_line(error: BaseException) -> str | None:
    """Return file, line and function of the last frame in the user's own code, such as `agent.py:12 in answer`."""
    frames = _user_frames(error.__traceback__)
    if not frames:
        return None
    file, line, function = frames[-1]
    return f"{Path(file).name}:{line} in {function}"


def _filter(shown: traceback.TracebackException, error: BaseException, seen: set[int]) -> bool:
    """Keep the user's frames of an exception and of all that it comes from; return whether there are any."""
    seen.add(id(error))
    wanted = {(file, line) for file, line, _ in _user_frames(error.__traceback__)}
    kept = [frame for frame in shown.stack if (frame.filename, frame.lineno) in wanted]
    shown.stack = traceback.StackSummary.from_list(kept)
    found = bool(kept)
    pairs = [(shown.__cause__, error.__cause__), (shown.__context__, error.__context__)]
    if isinstance(error, BaseExceptionGroup):
        pairs += zip(shown.exceptions or (), error.exceptions, strict=False)
    for inner_shown, inner in pairs:
        if inner_shown is not None and inner is not None and id(inner) not in seen:
            found = _filter(inner_shown, inner, seen) or found
    return found


def _user_frames(trace: TracebackType | None) -> list[tuple[str, int, str]]:
    frames = []
    while trace is not None:
        code, module = trace.tb_frame.f_code, str(trace.tb_frame.f_globals.get("__name__", ""))
        ours = module.split(".")[0].startswith("woodshed") and not module.startswith(USER_MODULE)
        if not ours and not code.co_filename.startswith("<") and not _is_installed(code.co_filename):
            frames.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return frames


@cache
def _is_installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed package, or is a program that an installer wrote."""
    paths = sysconfig.get_paths()
    folders = {Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    path = Path(file).resolve()
    return any(path.is_relative_to(folder) for folder in folders) or "site-packages" in path.parts
