"""The files of `examples/cluster`: read by those they are for, and made of commands that woodshed takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
import typer

from woodshed.cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/cluster"
FILES = ("raycluster.yaml", "sky.yaml")
PYTHON = ROOT / ".clusters/bin/python"
with_packages = pytest.mark.skipif(
    not PYTHON.exists(), reason="SkyPilot and Kubernetes' schemas are not installed; `make clusters` installs them"
)
# Each is a slip of the hand that must not pass.
SLIPS = {
    "a pod's field": ("raycluster.yaml", "failureThreshold: 180", "failureTreshold: 180"),
    "a pod's number": ("raycluster.yaml", "containerPort: 6379", 'containerPort: "6379"'),
    "a group's field": ("raycluster.yaml", "    minReplicas: 3", "    minReplica: 3"),
    "a parameter of ray start": ("raycluster.yaml", 'num-cpus: "0"', "num-cpus: 0"),
    "a version of KubeRay's": ("raycluster.yaml", "ray.io/v1\n", "ray.io/v2\n"),
    "a task's field": ("sky.yaml", "num_nodes: 3", "num_node: 3"),
    "a task's resource": ("sky.yaml", "disk_size: 128", "disk_sise: 128"),
    "a task's number": ("sky.yaml", "num_nodes: 3", "num_nodes: three"),
}


def wrong_in(folder: Path, home: Path) -> list[str]:
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("check_files.py"), *(folder / name for name in FILES)],
        env={**os.environ, "HOME": str(home)}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@with_packages
def test_the_files_are_what_kubernetes_and_skypilot_read(tmp_path: Path) -> None:
    assert wrong_in(EXAMPLE, tmp_path) == []


@pytest.mark.slow
@with_packages
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_in_a_file_is_found(slip: str, tmp_path: Path) -> None:
    name, right, slipped = SLIPS[slip]
    for file in FILES:
        (tmp_path / file).write_text((EXAMPLE / file).read_text())
    text = (EXAMPLE / name).read_text()
    assert right in text
    (tmp_path / name).write_text(text.replace(right, slipped))

    found = wrong_in(tmp_path, tmp_path)

    assert found and all(line.startswith(f"{name}: ") for line in found), found


@pytest.mark.parametrize("name", FILES)
def test_each_command_in_a_file_is_one_that_the_program_takes(name: str) -> None:
    commands = re.findall(r"\bwoodshed ((?:train|engine|ray) [^\n|&>;]*)", (EXAMPLE / name).read_text())

    assert {" ".join(words.split()[:2]) for words in commands} >= {"engine install", "train examples/cluster/train.py"}
    for words in commands:
        command, parent = typer.main.get_command(app), None
        rest = shlex.split(words)
        while True:
            context = command.make_context(command.name or "woodshed", list(rest), parent=parent)
            if not isinstance(command, click.Group):
                break
            found, parent = command.get_command(context, rest[0]), context
            assert found is not None, words
            command, rest = found, rest[1:]


def test_the_shell_lines_of_a_task_are_shell() -> None:
    text = (EXAMPLE / "sky.yaml").read_text()
    blocks = re.findall(r"^(?:setup|run): \|\n((?:  .*\n|\n)+)", text, re.MULTILINE)

    assert len(blocks) == 2
    for block in blocks:
        assert subprocess.run(["bash", "-n"], input=block, text=True, check=False).returncode == 0


def test_ray_is_the_version_that_the_engine_installs() -> None:
    pinned = re.search(r"'ray==([\d.]+)'", (EXAMPLE / "Dockerfile").read_text())
    named = re.search(r'rayVersion: "([\d.]+)"', (EXAMPLE / "raycluster.yaml").read_text())

    assert pinned and named and pinned[1] == named[1]
