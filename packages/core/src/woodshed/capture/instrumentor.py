"""An adapter's public class: one framework's hooks, applied once for the process and taken back exactly."""

from __future__ import annotations

from typing import ClassVar

from woodshed.capture.hooks import HookSet
from woodshed.capture.versions import VersionRange


class Instrumentor:
    """Hooks one framework process-wide, once; outside a rollout the hooks do nothing."""

    supported: ClassVar[tuple[VersionRange, ...]]
    """The framework's tested versions, and those of packages that hooked functions are in."""
    _hooks: ClassVar[HookSet]

    @property
    def instrumented(self) -> bool:
        """Whether the hooks are in place."""
        return self._hooks.applied

    def instrument(self) -> None:
        """Apply the hooks; a second call changes nothing.

        Raises:
            UnsupportedVersionError: an installed framework is older than the tested range; newer, too, where the
                environment variable `WOODSHED_STRICT_VERSIONS` is 1. Otherwise a newer one is hooked with a warning.
            HookError: a function to hook is missing; nothing was changed.
        """
        self._hooks.apply()

    def uninstrument(self) -> None:
        """Put every hooked function back as it was."""
        self._hooks.revert()


def instrumented() -> list[type[Instrumentor]]:
    """Return the instrumentors of this process whose hooks are in place."""
    known, waiting = list[type[Instrumentor]](), Instrumentor.__subclasses__()
    while waiting:
        known.append(kind := waiting.pop())
        waiting += kind.__subclasses__()
    return [kind for kind in known if hasattr(kind, "_hooks") and kind().instrumented]
