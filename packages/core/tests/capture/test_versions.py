"""A framework below its floor is refused; above its ceiling it runs, if every hook is found, with one warning."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

import pytest

from woodshed.capture import Hook, HookSet, VersionRange
from woodshed.errors import HookError, UnsupportedVersionError


class Framework:
    """A framework on `sys.path`: one function, and the metadata of the version it is installed in."""

    def __init__(self, folder: Path) -> None:
        self.name = f"framework_{uuid.uuid4().hex}"  # the warning is given once per process
        self.folder = folder
        (folder / f"{self.name}.py").write_text('def call():\n    return "plain"\n')

    def install(self, version: str) -> None:
        about = self.folder / f"{self.name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {version}\n")

    def hooks(self, path: str = "call") -> HookSet:
        hook = Hook(self.name, path, lambda wrapped, instance, args, kwargs: f"<{wrapped()}>")
        return HookSet([hook], supported=[VersionRange(self.name, "1.15.2", "1.15.28")])

    def call(self) -> str:
        return str(__import__(self.name).call())


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Framework:
    monkeypatch.syspath_prepend(tmp_path)
    return Framework(tmp_path)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("version", ["1.15.2", "1.15.28", "1.15.28+local.1"])
def test_both_ends_of_the_range_are_hooked_without_a_word(
    framework: Framework, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    framework.install(version)
    framework.hooks().apply()

    assert (framework.call(), warnings(caplog)) == ("<plain>", [])


def test_a_version_below_the_floor_is_refused_before_any_target(framework: Framework) -> None:
    framework.install("1.15.1")

    with pytest.raises(UnsupportedVersionError, match=r"1\.15\.1 is installed; this adapter is tested with '.*>=1.15"):
        framework.hooks("gone").apply()
    assert framework.call() == "plain"


def test_a_version_above_the_ceiling_is_hooked_with_one_warning_per_process(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    framework.install("1.15.30")
    framework.hooks().apply()
    framework.hooks().apply()

    assert framework.call() == "<<plain>>"
    assert warnings(caplog) == [
        f"{framework.name} 1.15.30 is newer than what was tested, 1.15.28. Every function that is hooked exists; "
        "set WOODSHED_STRICT_VERSIONS=1 to refuse it"
    ]


def test_a_missing_target_of_a_newer_version_is_an_error_that_says_so(
    framework: Framework, caplog: pytest.LogCaptureFixture
) -> None:
    framework.install("2.0")

    with pytest.raises(HookError, match=r"\.gone: .*nothing was changed.* 2\.0 is newer than what was tested, 1\.15"):
        framework.hooks("gone").apply()
    assert (framework.call(), warnings(caplog)) == ("plain", [])


def test_strict_versions_refuse_what_was_not_tested(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    framework.install("1.15.30")
    monkeypatch.setenv("WOODSHED_STRICT_VERSIONS", "1")

    with pytest.raises(UnsupportedVersionError, match=r"1\.15\.30 is installed; .*<=1\.15\.28"):
        framework.hooks().apply()
    assert framework.call() == "plain"


def test_strict_versions_take_what_was_tested(framework: Framework, monkeypatch: pytest.MonkeyPatch) -> None:
    framework.install("1.15.28")
    monkeypatch.setenv("WOODSHED_STRICT_VERSIONS", "1")
    framework.hooks().apply()

    assert framework.call() == "<plain>"


def test_a_framework_that_is_not_installed_is_named(framework: Framework) -> None:
    with pytest.raises(UnsupportedVersionError, match=r"is not installed; this adapter needs .*pip install"):
        framework.hooks().apply()
