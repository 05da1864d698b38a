"""The check of what `make dist` built finds each fault that it is there for, and none in a package that is whole."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = {
    "name": "small-package",
    "version": "1.0",
    "dependencies": ["httpx>=0.28,<1"],
    "optional-dependencies": {"view": ["starlette>=0.46,<2"]},
}
INFO = "small_package-1.0.dist-info"
METADATA = """\
Metadata-Version: 2.4
Name: small-package
Version: 1.0
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.11
Project-URL: Repository, https://example.org
Project-URL: Issues, https://example.org/issues
Project-URL: Changelog, https://example.org/changes
Project-URL: Documentation, https://example.org/docs
Requires-Dist: httpx<1,>=0.28
Provides-Extra: view
Requires-Dist: starlette<2,>=0.46; extra == 'view'
Description-Content-Type: text/markdown

# A small package
"""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """Return the script as a module: it is none of a package."""
    spec = importlib.util.spec_from_file_location("dist_check", Path(__file__).with_name("check.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(check: ModuleType, tmp_path: Path) -> Any:
    """Return a package without a fault, in a checkout of its own."""
    source = {"small_package/__init__.py": b"", "small_package/py.typed": b"", "small_package/page.html": b"<p>"}
    for name, content in source.items():
        file = tmp_path / "src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "README.md").write_text(METADATA.split("\n\n")[1])
    subprocess.run("git init -q && git add src", shell=True, cwd=tmp_path, check=True)
    wheel = {**source, f"{INFO}/METADATA": METADATA.encode(), f"{INFO}/licenses/LICENSE": b"Apache"}
    sdist = {f"src/{name}": content for name, content in source.items()} | dict.fromkeys(check.BESIDE_SOURCE, b"")
    return check.Package(folder=tmp_path, project=PROJECT, wheel=wheel, sdist=sdist, rebuilt=dict(wheel))


def problems(check: ModuleType, package: Any) -> list[str]:
    return [*check.wrong_metadata(package), *check.wrong_files(package)]


def said(old: str, new: str) -> Callable[[Any], Any]:
    """Return the fault of saying `new` in the wheel's metadata, where it should say `old`."""
    assert old in METADATA
    return holding(f"{INFO}/METADATA", METADATA.replace(old, new).encode())


def holding(name: str, content: bytes) -> Callable[[Any], Any]:
    return lambda whole: replace(whole, wheel=whole.wheel | {name: content}, rebuilt=whole.rebuilt | {name: content})


def lacking(name: str, *parts: str) -> Callable[[Any], Any]:
    def fault(whole: Any) -> Any:
        return replace(whole, **{p: {n: c for n, c in getattr(whole, p).items() if n != name} for p in parts})

    return fault


def test_a_whole_package_has_no_fault(check: ModuleType, package: Any) -> None:
    assert problems(check, package) == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (said("Version: 1.0", "Version: 1.1"), "version is 1.1"),
        (said("Apache-2.0", "MIT"), "licence is MIT"),
        (said("License-File: LICENSE\n", ""), "licence is Apache-2.0 with the files None"),
        (said(">=3.11", ">=3.12"), "Requires-Python is >=3.12"),
        (said("Project-URL: Issues, https://example.org/issues\n", ""), "there is no link named Issues"),
        (said("https://example.org/docs", "docs"), "a link isn't https"),
        (said("# A small package", "# Another"), "the description isn't README.md"),
        (said("text/markdown", "text/plain"), "the description isn't README.md as Markdown"),
        (said("# A small package", "[a page](docs/page.md)"), "lead nowhere on a package index: docs/page.md"),
        (said("Provides-Extra: view", "Provides-Extra: look"), "extras are ['look']"),
        (said("httpx<1", "httpx<2"), "dependencies differ from pyproject.toml: httpx<1,>=0.28, httpx<2,>=0.28"),
        (said("; extra == 'view'", ""), "dependencies differ"),
        (lacking("small_package/page.html", "wheel", "rebuilt"), "the wheel lacks small_package/page.html"),
        (lacking("small_package/py.typed", "wheel"), "the wheel lacks data: small_package/py.typed"),
        (lacking(f"{INFO}/licenses/LICENSE", "wheel", "rebuilt"), "the wheel lacks LICENSE"),
        (lacking("README.md", "sdist"), "the sdist lacks README.md"),
        (lacking("small_package/page.html", "rebuilt"), "builds another wheel; it differs in small_package/page.html"),
        (holding("small_package/scratch.py", b""), "holds what is not committed: small_package/scratch.py"),
        (holding("small_package/tests/test_it.py", b""), "the wheel holds a test: small_package/tests/test_it.py"),
        (holding("small_package/__init__.py", b"A = '/home/me/a'"), "'/home/me', in small_package/__init__.py"),
        (lambda whole: replace(whole, sdist=whole.sdist | {"notes.md": b""}), "no build needs: notes.md"),
    ],
)
def test_a_fault_is_found_and_named(check: ModuleType, package: Any, fault: Callable[[Any], Any], found: str) -> None:
    assert [problem for problem in problems(check, fault(package)) if found in problem] != []
