"""Which versions of a framework an adapter takes: none below its floor, any above its ceiling with one warning."""

from __future__ import annotations

import logging
import os
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from woodshed.errors import UnsupportedVersionError

STRICT_VERSIONS = "WOODSHED_STRICT_VERSIONS"
"""Environment variable: set to 1, a version above the ceiling is an error too."""

_log = logging.getLogger("woodshed.capture")
_warned: set[str] = set()


def check_version(requirement: str) -> str | None:
    """Return what to warn of where the installed version is newer than the tested ones, else None.

    Args:
        requirement: the tested range, such as `crewai>=1.15.2,<=1.15.30`: its ceiling is the newest tested version.

    Raises:
        UnsupportedVersionError: the distribution is not installed, or its version is below the floor. Also one above
            the ceiling, where the environment variable `WOODSHED_STRICT_VERSIONS` is 1.
    """
    wanted = Requirement(requirement)
    try:
        installed = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        raise UnsupportedVersionError(
            f"{wanted.name!r} is not installed; this adapter needs {requirement!r}: pip install '{requirement}'"
        ) from None
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    ceilings = [part for part in wanted.specifier if part.operator in ("<", "<=")]
    floors = SpecifierSet(",".join(str(part) for part in wanted.specifier if part not in ceilings))
    if os.environ.get(STRICT_VERSIONS) == "1" or not floors.contains(installed, prereleases=True):
        raise UnsupportedVersionError(
            f"{wanted.name!r} {installed} is installed; this adapter is tested with {requirement!r}: "
            f"pip install '{requirement}'"
        )
    newest = ", ".join(part.version if part.operator == "<=" else f"below {part.version}" for part in ceilings)
    return f"{wanted.name} {installed} is newer than what was tested, {newest}"


def warn_once(warning: str) -> None:
    """Log a warning of `check_version`, once per process."""
    if warning not in _warned:
        _warned.add(warning)
        _log.warning("%s. Every function that is hooked exists; set %s=1 to refuse it", warning, STRICT_VERSIONS)
