"""An installed woodshed can be packed into a wheel again, whatever it was installed from."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from woodshed.engine.client import own_wheel
from woodshed.errors import EngineError

PACKAGE = {
    "woodshed/__init__.py": "",
    "woodshed/py.typed": "",
    "woodshed/prompts/judge.md": "Compare.\n",
    "woodshed-9.1.dist-info/METADATA": "Metadata-Version: 2.4\nName: woodshed\nVersion: 9.1\n",
    "woodshed-9.1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "woodshed-9.1.dist-info/entry_points.txt": "[console_scripts]\nwoodshed = woodshed:main\n",
}
BY_THE_INSTALLER = ("../../../bin/woodshed", "woodshed/__pycache__/__init__.cpython-311.pyc")


def installed(place: Path, *, direct_url: str = "{}") -> importlib.metadata.Distribution:
    """Lay out what an installer leaves behind: the wheel's files, and its own."""
    info = "woodshed-9.1.dist-info"
    files = {**PACKAGE, f"{info}/INSTALLER": "pip\n", f"{info}/REQUESTED": "", f"{info}/direct_url.json": direct_url}
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    listed = (*files, *BY_THE_INSTALLER, f"{info}/RECORD")
    (place / info / "RECORD").write_text("".join(f"{name},,\n" for name in listed))
    return importlib.metadata.Distribution.at(place / info)


def test_the_wheel_holds_what_the_first_one_held(tmp_path: Path) -> None:
    wheel = own_wheel.pack(installed(tmp_path / "site"), tmp_path)

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names[:-1]}
    assert wheel.name == "woodshed-9.1-py3-none-any.whl"
    assert texts == PACKAGE
    assert names[-1] == "woodshed-9.1.dist-info/RECORD"


def test_an_installer_takes_the_wheel(tmp_path: Path) -> None:
    wheel = own_wheel.pack(installed(tmp_path / "site"), tmp_path)
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    asked = [str(python), "-c", "import woodshed, importlib.metadata as m; print(m.version('woodshed'))"]

    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == "9.1\n"


def test_the_hash_is_that_of_the_package_and_not_of_how_it_was_installed(tmp_path: Path) -> None:
    one = installed(tmp_path / "one")
    other = installed(tmp_path / "other", direct_url='{"url": "file:///elsewhere"}')
    before = own_wheel.digest(other)
    (tmp_path / "other/woodshed/prompts/judge.md").write_text("Compare well.\n")

    assert own_wheel.digest(one) == before
    assert own_wheel.digest(other) != before


def test_a_package_with_a_file_missing_is_named(tmp_path: Path) -> None:
    broken = installed(tmp_path)
    (tmp_path / "woodshed/prompts/judge.md").unlink()
    with pytest.raises(EngineError, match=r"'.*woodshed/prompts/judge.md', a file of the .* \(No such file"):
        own_wheel.digest(broken)


def test_a_package_that_lists_no_files_is_refused(tmp_path: Path) -> None:
    bare = installed(tmp_path)
    (tmp_path / "woodshed-9.1.dist-info/RECORD").unlink()
    with pytest.raises(EngineError, match=r"woodshed 9.1 is installed, but its metadata lists no files \(no RECORD\)"):
        own_wheel.pack(bare, tmp_path)
