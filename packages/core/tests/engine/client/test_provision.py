"""Where the engine environment is, when it counts as missing, and what is said when it cannot be made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.engine.client import provision
from woodshed.errors import EngineError, EngineMissing


@pytest.fixture(autouse=True)
def _no_engine_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WOODSHED_ENGINE_HOME", "WOODSHED_ENGINE_PYTHON", "WOODSHED_UV"):
        monkeypatch.delenv(name, raising=False)


def environment(home: Path, requirements: list[str]) -> Path:
    """Make what an installed environment looks like from outside: an interpreter and a stamp."""
    python = home / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (home / "woodshed-engine.json").write_text(json.dumps({"requirements": requirements}))
    return python


def test_a_checkouts_engine_is_in_the_checkout() -> None:
    checkout = Path(__file__).parents[5]

    assert provision.engine_home() == checkout / ".engine"


def test_a_named_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path))

    assert provision.engine_home() == tmp_path


def test_outside_a_checkout_the_home_is_in_the_users_data_folder(tmp_path: Path) -> None:
    asked = "from woodshed.engine.client.provision import engine_home; print(engine_home())"
    site = tmp_path / "site"
    shutil.copytree(Path(provision.__file__).parents[2], site / "woodshed")
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == str(tmp_path / "data/woodshed/engine")


def test_an_environment_that_was_not_finished_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    environment(tmp_path / "engine", ["torch==2.13.0+cpu"])
    (tmp_path / "engine" / "woodshed-engine.json").unlink()
    with pytest.raises(EngineMissing, match=r"there is no engine environment in .*'woodshed engine install' makes it"):
        provision.engine_python()


def test_an_environment_of_other_versions_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    environment(tmp_path / "engine", ["torch==1.0"])
    with pytest.raises(EngineMissing, match="made for other versions; 'woodshed engine install' brings it up to date"):
        provision.engine_python()


def test_an_installed_environment_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    python = environment(tmp_path / "engine", list(provision._PINS["cpu"]))

    assert provision.engine_python() == python


def test_an_interpreter_named_by_hand_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_ENGINE_PYTHON", str(tmp_path / "python"))
    with pytest.raises(EngineMissing, match=r"WOODSHED_ENGINE_PYTHON is '.*python', where there is no interpreter"):
        provision.engine_python()


def test_a_failed_install_says_what_failed_and_leaves_no_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installer = tmp_path / "uv"
    installer.write_text("#!/bin/sh\necho no space left on device\nexit 3\n")
    installer.chmod(0o755)
    monkeypatch.setenv("WOODSHED_UV", str(installer))
    said: list[str] = []
    with pytest.raises(EngineError, match=r"(?s)ended with 3.*no space left on device"):
        provision.install(tmp_path / "engine", progress=said.append)

    assert said
    assert not (tmp_path / "engine" / "woodshed-engine.json").exists()


def test_installing_again_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_UV", "/bin/false")
    home = tmp_path / "engine"
    python = environment(home, [])
    plan = provision._plan("cuda" if provision.has_gpu() else "cpu")
    (home / "woodshed-engine.json").write_text(json.dumps(plan.stamp()))
    said: list[str] = []

    assert provision.install(home, progress=said.append) == python
    assert said == [f"the engine environment in {home} is up to date"]


def test_the_engine_gets_this_very_woodshed() -> None:
    assert provision._own_source() == Path(__file__).parents[3]


def test_unsloth_is_an_extra_that_stays_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "has_gpu", lambda: True)
    monkeypatch.setenv("WOODSHED_UV", "/bin/false")
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    plan = provision._plan("cuda", unsloth=True)
    python = environment(tmp_path / "engine", [])
    (tmp_path / "engine" / "woodshed-engine.json").write_text(json.dumps(plan.stamp()))

    assert provision.UNSLOTH in plan.requirements
    assert provision.UNSLOTH not in provision._plan("cuda").requirements
    assert provision.engine_python() == python
    assert provision.install() == python


def test_ray_is_an_extra_that_stays_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_UV", "/bin/false")
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    kind = "cuda" if provision.has_gpu() else "cpu"
    plan = provision._plan(kind, ray=True)
    python = environment(tmp_path / "engine", [])
    (tmp_path / "engine" / "woodshed-engine.json").write_text(json.dumps(plan.stamp()))

    assert provision.RAY in plan.requirements and provision.RAY not in provision._plan(kind).requirements
    assert provision.engine_python() == provision.install() == provision.install(ray=True) == python


def test_unsloth_without_a_gpu_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "has_gpu", lambda: False)
    with pytest.raises(EngineError, match="Unsloth needs an NVIDIA GPU"):
        provision.install(tmp_path / "engine", unsloth=True)

    assert not (tmp_path / "engine").exists()


def test_a_checkout_with_other_dependencies_makes_the_environment_anew(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('dependencies = ["httpx"]')
    plan = provision._Plan(kind="cpu", requirements=(), source=tmp_path)
    before = plan.stamp()

    (tmp_path / "pyproject.toml").write_text('dependencies = ["httpx", "psutil"]')

    assert plan.stamp() != before
