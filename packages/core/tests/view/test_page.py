"""The page that is shipped is the one its sources make; it loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from woodshed.view.server import page_folder

SOURCES = Path(__file__).parents[2] / "view_ui"
ROOTS = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "stamp.mjs")


def digest(files: Iterable[tuple[str, Path]]) -> str:
    """Return what `view_ui/stamp.mjs` writes of some files."""
    made = hashlib.sha256()
    for name, path in files:
        made.update(f"{name}\n".encode() + path.read_bytes() + b"\n")
    return made.hexdigest()


def test_the_page_is_built_from_its_sources() -> None:
    stamp = json.loads((page_folder() / "stamp.json").read_text())
    names = sorted([*ROOTS, *(p.relative_to(SOURCES).as_posix() for p in (SOURCES / "src").rglob("*") if p.is_file())])
    built = sorted(p.name for p in page_folder().iterdir() if p.name != "stamp.json")

    assert stamp["sources"] == digest((name, SOURCES / name) for name in names), "run `make view` and commit the page"
    assert stamp["built"] == digest((name, page_folder() / name) for name in built), "page/ was changed by hand"


@pytest.mark.parametrize("name", ["index.html", "app.css"])
def test_the_page_names_no_other_host(name: str) -> None:
    assert re.findall(r"(?:https?:)?//[\w.]+", (page_folder() / name).read_text()) == []


def test_the_page_has_no_code_of_its_own_that_the_policy_would_refuse() -> None:
    page = (page_folder() / "index.html").read_text()

    assert (
        re.findall(r"<script(?![^>]*src=)", page) == []
        and " style=" not in page
        and " on" not in page.split("<body")[0]
    )
    assert "dangerouslySetInnerHTML=" not in "".join(p.read_text() for p in (SOURCES / "src").rglob("*.tsx"))
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write", "".join(
        p.read_text() for p in (SOURCES / "src").rglob("*.ts*")
    ))  # fmt: skip


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (SOURCES / "package-lock.json").read_text()
