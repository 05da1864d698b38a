"""`woodshed ray`: what it says where Ray is missing, and what it makes of nodes that are not alike."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from woodshed.cli.app import app
from woodshed.cli.ray import differences, node_table
from woodshed.engine.client.ray_commands import RayNode
from woodshed.errors import ConfigError, EngineMissing

ALIKE = {"woodshed": "0.1.0", "vllm": "0.32.0", "torch": "2.13.0", "ray": "2.60.0"}


def node(number: int, **versions: str | None) -> RayNode:
    return RayNode(address=f"10.0.0.{number}", cpus=8.0, gpus=1.0, versions=ALIKE | versions)


@pytest.mark.parametrize("command", [("up",), ("up", "--address", "10.0.0.1:6379"), ("status",), ("down",)])
def test_an_environment_without_ray_is_named_with_the_command_that_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    bare = tmp_path / "bin" / "python"
    bare.parent.mkdir()
    bare.symlink_to(sys.executable)
    monkeypatch.setenv("WOODSHED_ENGINE_PYTHON", str(bare))

    done = CliRunner().invoke(app, ["ray", *command])

    assert isinstance(done.exception, ConfigError)
    assert f"environment of {str(bare)!r}; 'woodshed engine install --ray' adds it" in str(done.exception)


def test_no_engine_environment_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WOODSHED_ENGINE_PYTHON", raising=False)
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "none"))

    assert isinstance(CliRunner().invoke(app, ["ray", "up"]).exception, EngineMissing)


def test_a_package_that_differs_or_is_missing_is_named_with_its_nodes() -> None:
    nodes = [node(1), node(2, vllm="0.31.0"), node(3, woodshed=None)]

    assert [line.partition(". Run")[0] for line in differences(nodes)] == [
        "woodshed is not the same on all nodes: 0.1.0 on 10.0.0.1, 10.0.0.2; none on 10.0.0.3",
        "vLLM is not the same on all nodes: 0.32.0 on 10.0.0.1, 10.0.0.3; 0.31.0 on 10.0.0.2",
    ]
    assert differences([node(1, torch="2.13.0+cpu"), node(2)]) == []


def test_a_node_that_does_not_answer_is_in_the_table_and_no_difference() -> None:
    silent = RayNode(address="10.0.0.9", cpus=4.0, gpus=0.0, versions=None)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(node_table([node(1), silent]))

    (row,) = [line for line in shown.get().splitlines() if "10.0.0.9" in line]
    assert row.count("no answer") == 4 and " 4 " in row
    assert differences([node(1), silent]) == []


def test_help_teaches_the_way_from_the_first_machine_to_the_training() -> None:
    text = " ".join(CliRunner().invoke(app, ["ray", "up", "--help"], env={"COLUMNS": "160"}).output.split())

    for line in ("woodshed engine install --ray", "woodshed ray up --address 10.0.0.1:6379", 'Engine.ray("auto")'):
        assert line in text


def test_an_address_without_a_port_is_refused_with_one_that_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("python", "ray"):
        (tmp_path / name).symlink_to(sys.executable)
    monkeypatch.setenv("WOODSHED_ENGINE_PYTHON", str(tmp_path / "python"))

    for command in ("up", "status"):
        refused = CliRunner().invoke(app, ["ray", command, "--address", "head"]).exception
        assert isinstance(refused, ConfigError)
        assert "'head' is no address of a Ray cluster; expected HOST:PORT, such as 10.0.0.1:6379" in str(refused)
