"""Hooks as data: one loop applies them, one takes them back exactly."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import wrapt

from woodshed.capture.versions import VersionRange, check_version, warn_once
from woodshed.errors import HookError


class Around(Protocol):
    """What happens around a hooked call (`wrapt`'s signature)."""

    def __call__(self, wrapped: Any, instance: Any, args: Any, kwargs: Any, /) -> Any:
        """Call `wrapped(*args, **kwargs)` and return its result, or do something else."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One function of a framework and what happens around it."""

    module: str
    path: str
    """`Class.method` or `function` inside the module."""
    around: Around
    optional: bool = False
    """True for a function that only some supported versions have."""


@dataclass(frozen=True, slots=True)
class _Patch:
    owner: Any
    name: str
    original: Any
    """What the owner itself held, or None where the attribute was inherited."""
    wrapper: Any


_Switch = list[bool]
"""Turns one application's wrappers into pass-throughs, also those that stay because somebody wrapped them.

On while it holds something. wrapt asks for the truth of its `enabled` at each call, which a list answers in C: a hook
has no frame of ours between its caller and its `around`.
"""


class HookSet:
    """A framework's hooks: version checked first, all targets resolved before any is changed, undone exactly."""

    def __init__(self, hooks: Sequence[Hook], *, supported: Sequence[VersionRange] = ()) -> None:
        """`supported` are the versions that the targets were found in."""
        self._hooks = tuple(hooks)
        self._supported = tuple(supported)
        self._lock = threading.RLock()
        self._patches: list[_Patch] = []
        self._switch: _Switch = []

    @property
    def applied(self) -> bool:
        """Whether the hooks are in place."""
        return bool(self._switch)

    def apply(self) -> None:
        """Wrap every target once; a second call changes nothing.

        A framework newer than what was tested is hooked with one warning in the log, once all targets are found.

        Raises:
            UnsupportedVersionError: an installed framework is older than its tested range; newer, too, where the
                environment variable `WOODSHED_STRICT_VERSIONS` is 1.
            HookError: a target does not exist; nothing was changed.
        """
        with self._lock:
            if self._switch:
                return
            untested = [text for text in map(check_version, self._supported) if text is not None]
            resolved = [target for hook in self._hooks if (target := _resolve(hook, untested)) is not None]
            for warning in untested:
                warn_once(warning)
            # By owner and name: in some versions two paths lead to the same function, which is wrapped once.
            targets = {(id(owner), name): (hook, owner, name) for hook, owner, name in reversed(resolved)}
            self._switch = [True]
            try:
                for hook, owner, name in reversed(list(targets.values())):
                    self._patches.append(_wrap(hook, owner, name, self._switch))
            except BaseException:
                self.revert()
                raise

    def revert(self) -> None:
        """Put every target back as it was; where somebody wrapped it after us, leave a pass-through."""
        with self._lock:
            self._switch.clear()
            while self._patches:
                patch = self._patches.pop()
                if patch.owner.__dict__.get(patch.name) is not patch.wrapper:
                    continue
                if patch.original is None:
                    delattr(patch.owner, patch.name)
                else:
                    setattr(patch.owner, patch.name, patch.original)


def _resolve(hook: Hook, untested: Sequence[str]) -> tuple[Hook, Any, str] | None:
    *parents, name = hook.path.split(".")
    try:
        owner: Any = importlib.import_module(hook.module)
        for parent in parents:
            owner = getattr(owner, parent)
        getattr(owner, name)
    except (ImportError, AttributeError) as error:
        if hook.optional:
            return None
        raise HookError(
            f"cannot hook {hook.module}.{hook.path}: {error}; nothing was changed. "
            + ("; ".join(untested) or "The framework's own dependencies may be newer than what was tested")
            + ": install one of the adapter's supported versions"
        ) from error
    return hook, owner, name


def _wrap(hook: Hook, owner: Any, name: str, switch: _Switch) -> _Patch:
    original = owner.__dict__.get(name)
    # Statically, so that an inherited classmethod is not bound to the parent before it is wrapped.
    wrapper = _wrapper(inspect.getattr_static(owner, name), hook.around, switch)
    setattr(owner, name, wrapper)
    return _Patch(owner, name, original, wrapper)


def _wrapper(held: Any, around: Around, switch: _Switch) -> Any:
    """Return what an owner holds, wrapped; a property by its getter, which is what its readers call."""
    if not isinstance(held, property):
        return wrapt.FunctionWrapper(held, around, enabled=switch)  # type: ignore[arg-type]
    getter: Any = held.fget
    wrapper = wrapt.FunctionWrapper(getter, around, enabled=switch)  # type: ignore[arg-type]
    return property(wrapper, held.fset, held.fdel, held.__doc__)
