"""Check what `make dist` built: every package of the workspace is there, says what it is, and is whole.

Run: make dist, or with hatchling and packaging: python tests/dist/check.py dist
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MODELS = [
    f"weights/{model}/{file}" for model in ("policy", "judge") for file in ("model.safetensors", "tokenizer.json")
]
# What Python doesn't import and a user misses only later. Beside `py.typed`, which every package has.
DATA = {
    "woodshed": ["view/page/index.html", "view/page/app.js", "view/page/app.css", "rewards/prompts/ruler_system.md"],
    "woodshed-tiny-world": MODELS,
}
BESIDE_SOURCE = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
LINKS = {"Repository", "Issues", "Changelog", "Documentation"}
MACHINE_PATH = re.compile(rb"/(?:home|Users|root|work)/[\w.-]+|" + re.escape(bytes(ROOT)))
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)([^)]+)\)")
TEST = re.compile(r"(^|/)(tests?/|test_[^/]*\.py$|conftest\.py$)")
# They say who packed and what is listed, not what is held.
WRITTEN_WHEN_PACKED = ("WHEEL", "RECORD")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package: its folder in the checkout, and the bytes of each file in what was built of it."""

    folder: Path
    project: dict[str, Any]
    wheel: dict[str, bytes]
    sdist: dict[str, bytes]
    """Without the folder that everything in an sdist lies in."""
    rebuilt: dict[str, bytes]
    """The wheel that the sdist alone builds."""

    @property
    def module(self) -> str:
        """The name to import."""
        return str(self.project["name"]).replace("-", "_")

    @property
    def metadata(self) -> Metadata:
        """What the wheel says of itself; packaging raises for what is malformed."""
        stem = f"{self.module}-{self.project['version']}"
        return Metadata.from_email(self.wheel[f"{stem}.dist-info/METADATA"])


def main(dist: Path) -> None:
    """Print what is wrong with the packages in `dist` and exit with 1, or print what was checked."""
    folders = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
    wrong = []
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        stem = f"{project['name'].replace('-', '_')}-{project['version']}"
        wheel, sdist = dist / f"{stem}-py3-none-any.whl", dist / f"{stem}.tar.gz"
        missing = [file.name for file in (wheel, sdist) if not file.is_file()]
        wrong += [f"{file} was not built" for file in missing]
        if not missing:
            package = _read(folder, project, wheel, sdist)
            wrong += [f"{project['name']}: {problem}" for problem in (*wrong_metadata(package), *wrong_files(package))]
    built = sorted(file.name for file in dist.iterdir() if file.name != ".gitignore")
    if len(built) > 2 * len(folders):
        wrong.append(f"{dist} holds more than a wheel and an sdist of each package: {', '.join(built)}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(
        f"{len(folders)} packages, each a wheel and an sdist: metadata complete, all data inside, nothing else inside"
    )


def wrong_metadata(package: Package) -> Iterator[str]:
    """Yield what the wheel says of itself otherwise than pyproject.toml, or doesn't say."""
    said, project = package.metadata, package.project
    if str(said.version) != project["version"]:
        yield f"version is {said.version}, pyproject.toml says {project['version']}"
    if said.license_expression != "Apache-2.0" or not said.license_files:
        yield f"licence is {said.license_expression} with the files {said.license_files}, expected Apache-2.0, LICENSE"
    if said.requires_python != SpecifierSet(">=3.11"):
        yield f"Requires-Python is {said.requires_python}, expected >=3.11"
    if missing := LINKS - set(said.project_urls or {}):
        yield f"there is no link named {', '.join(sorted(missing))}"
    if not all(url.startswith("https://") for url in (said.project_urls or {}).values()):
        yield f"a link isn't https: {said.project_urls}"
    if (
        said.description != (package.folder / "README.md").read_text()
        or said.description_content_type != "text/markdown"
    ):
        yield "the description isn't README.md as Markdown"
    if relative := RELATIVE_LINK.findall(said.description or ""):
        yield f"README.md has links that lead nowhere on a package index: {', '.join(relative)}"
    extras = project.get("optional-dependencies", {})
    if set(said.provides_extra or ()) != {canonicalize_name(extra) for extra in extras}:
        yield f"extras are {said.provides_extra}, pyproject.toml has {sorted(extras)}"
    expected = {_plain(requirement) for requirement in map(Requirement, project["dependencies"])}
    for extra, requirements in extras.items():
        expected |= {_plain(Requirement(f"{requirement}; extra == '{extra}'")) for requirement in requirements}
    found = {_plain(requirement) for requirement in said.requires_dist or ()}
    if found != expected:
        yield f"dependencies differ from pyproject.toml: {', '.join(sorted(found ^ expected))}"


def wrong_files(package: Package) -> Iterator[str]:
    """Yield what is missing from the wheel or the sdist, and what doesn't belong there."""
    own = {name for name in package.wheel if ".dist-info/" not in name}
    committed = _committed(package.folder / "src")
    if missing := committed - own:
        yield f"the wheel lacks {', '.join(sorted(missing))}"
    if stray := own - committed:
        yield f"the wheel holds what is not committed: {', '.join(sorted(stray))}"
    needed = {f"{package.module}/{file}" for file in ("py.typed", *DATA.get(package.project["name"], ()))}
    if missing := needed - own:
        yield f"the wheel lacks data: {', '.join(sorted(missing))}"
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in package.wheel):
        yield "the wheel lacks LICENSE"
    beside = {name for name in package.sdist if not name.startswith("src/")}
    if missing := BESIDE_SOURCE - beside:
        yield f"the sdist lacks {', '.join(sorted(missing))}"
    if stray := beside - BESIDE_SOURCE - {".gitignore"}:  # hatchling packs the ignore file that it obeys
        yield f"the sdist holds what no build needs: {', '.join(sorted(stray))}"
    if different := sorted(_different(package.wheel, package.rebuilt)):
        yield f"the sdist builds another wheel; it differs in {', '.join(different)}"
    for kind, files in (("wheel", package.wheel), ("sdist", package.sdist)):
        for name, content in sorted(files.items()):
            if TEST.search(name):
                yield f"the {kind} holds a test: {name}"
            if path := MACHINE_PATH.search(content):
                yield f"the {kind} names a path of the machine that built it, {path.group().decode()!r}, in {name}"


def _read(folder: Path, project: dict[str, Any], wheel: Path, sdist: Path) -> Package:
    with tempfile.TemporaryDirectory() as aside:
        with tarfile.open(sdist) as archive:
            archive.extractall(aside, filter="data")
        (unpacked,) = Path(aside).iterdir()
        files = {path.relative_to(unpacked).as_posix(): path.read_bytes() for path in _files_in(unpacked)}
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(unpacked / "built")]
        done = subprocess.run(build, cwd=unpacked, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{sdist.name} builds no wheel:\n{done.stdout}{done.stderr}")
        rebuilt = _unzipped(unpacked / "built" / wheel.name)
    return Package(folder=folder, project=project, wheel=_unzipped(wheel), sdist=files, rebuilt=rebuilt)


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _unzipped(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _different(wheel: dict[str, bytes], other: dict[str, bytes]) -> Iterator[str]:
    for name in wheel.keys() | other.keys():
        if PurePosixPath(name).name not in WRITTEN_WHEN_PACKED and wheel.get(name) != other.get(name):
            yield name


def _committed(folder: Path) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return set(listed.split("\0")) - {""}


def _plain(requirement: Requirement) -> str:
    return str(Requirement(f"{canonicalize_name(requirement.name)}{str(requirement).removeprefix(requirement.name)}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
