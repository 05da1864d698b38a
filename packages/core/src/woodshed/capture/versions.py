"""Which versions of a framework an adapter takes: none below its floor, any above its ceiling with one warning."""

from __future__ import annotations

import logging
import os
from importlib import metadata
from typing import NamedTuple

from packaging.version import Version

from woodshed.errors import UnsupportedVersionError

STRICT_VERSIONS = "WOODSHED_STRICT_VERSIONS"
"""Environment variable: set to 1, a version above the ceiling is an error too."""

_log = logging.getLogger("woodshed.capture")
_warned: set[str] = set()


class VersionRange(NamedTuple):
    """The versions of a distribution that an adapter is tested with: its floor and its ceiling."""

    distribution: str
    oldest: str
    newest: str

    def __str__(self) -> str:
        """Write it as a requirement, such as `crewai>=1.15.2,<=1.15.30`."""
        return f"{self.distribution}>={self.oldest},<={self.newest}"


def check_version(tested: VersionRange) -> str | None:
    """Return what to warn of where the installed version is newer than the tested ones, else None.

    Raises:
        UnsupportedVersionError: the distribution is not installed, or its version is below the floor. Also one above
            the ceiling, where the environment variable `WOODSHED_STRICT_VERSIONS` is 1.
    """
    name = tested.distribution
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        raise UnsupportedVersionError(
            f"{name!r} is not installed; this adapter needs '{tested}': pip install '{tested}'"
        ) from None
    version = Version(Version(installed).public)  # a build's own label, such as `+cu130`, makes no version newer
    is_newer = version > Version(tested.newest)
    if version < Version(tested.oldest) or (is_newer and os.environ.get(STRICT_VERSIONS) == "1"):
        raise UnsupportedVersionError(
            f"{name!r} {installed} is installed; this adapter is tested with '{tested}': pip install '{tested}'"
        )
    return f"{name} {installed} is newer than what was tested, {tested.newest}" if is_newer else None


def warn_once(warning: str) -> None:
    """Log a warning of `check_version`, once per process."""
    if warning not in _warned:
        _warned.add(warning)
        _log.warning("%s. Every function that is hooked exists; set %s=1 to refuse it", warning, STRICT_VERSIONS)
