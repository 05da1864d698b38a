"""Which trackers there are, and whether a run can use those that it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.specifiers import SpecifierSet

from woodshed.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A tracker that a run can have."""

    packages: tuple[str, ...]
    """Distributions that bring it; one of them is enough."""
    versions: str
    """The versions it works with; a newer one is taken too."""


KINDS: Mapping[str, Kind] = {
    "wandb": Kind(packages=("wandb",), versions=">=0.19.9"),
    "mlflow": Kind(packages=("mlflow", "mlflow-skinny"), versions=">=2.20"),
    "tensorboard": Kind(packages=("tensorboardX",), versions=">=2.6.2"),
    "trackio": Kind(packages=("trackio",), versions=">=0.30"),
}


def tracker_names(track: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names in `track`, each once: a list of them, or a text with commas.

    Raises:
        ConfigError: a name is none of a tracker.
    """
    given = track.split(",") if isinstance(track, str) else list(track)
    names = dict.fromkeys(n.strip() if isinstance(n, str) else n for n in given if n != "")
    if unknown := [n for n in names if n not in KINDS]:
        raise ConfigError(
            f"track has {', '.join(map(repr, unknown))}, which is no tracker that woodshed knows; expected any of "
            f"{', '.join(map(repr, KINDS))}. For another one, send the rows yourself: on_step=f is called with each"
        )
    return tuple(names)


def check_installed(names: Sequence[str]) -> None:
    """Raise ConfigError where the package of a tracker is missing or too old; nothing is imported."""
    for name in names:
        kind = KINDS[name]
        found = {package: version for package in kind.packages if (version := _installed(package)) is not None}
        if not found:
            raise ConfigError(
                f"track={name!r}, and {kind.packages[0]!r} is not installed: pip install 'woodshed[{name}]', or leave "
                f"{name!r} out of track (`--track`)"
            )
        if not any(SpecifierSet(kind.versions).contains(version, prereleases=True) for version in found.values()):
            package, version = next(iter(found.items()))
            raise ConfigError(
                f"track={name!r}, and {package!r} {version} is installed; expected {kind.versions}: "
                f"pip install --upgrade 'woodshed[{name}]'"
            )


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
