"""`woodshed ray up`, `status` and `down` with the real Ray: two nodes on this machine, from nothing to nothing.

`ray stop` stops every Ray of the machine, so all of this happens in a process namespace of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

if importlib.util.find_spec("ray") is not None:
    import ray

EXAMPLE = Path(__file__).parents[6] / "examples/cluster"
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed here (`woodshed engine install --ray`)"
    ),
    pytest.mark.skipif(
        shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode != 0,
        reason="`ray stop` would stop every Ray of this machine, and it has no process namespaces for users",
    ),
]
# Runs each command of a list of lists, whatever becomes of those before it, and prints what they said.
_DRIVER = """
import json, subprocess, sys
done = []
for arguments in json.loads(sys.argv[1]):
    ran = subprocess.run(arguments, capture_output=True, text=True)
    done.append({"rc": ran.returncode, "out": ran.stdout, "err": ran.stderr})
print(json.dumps(done))
"""
# Runs a command until it prints a text; Ray counts what a node has some seconds after it has joined.
_UNTIL = """
import subprocess, sys, time
text, *command = sys.argv[1:]
for _ in range(60):
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if text in ran.stdout:
        break
    time.sleep(0.5)
print(ran.stdout)
sys.exit(ran.returncode)
"""
_LIVING = "import psutil; print(sum('ray' in ' '.join(p.info['cmdline'] or ()) and 'raylet' in p.info['name']\
 for p in psutil.process_iter(['cmdline', 'name'])))"


@pytest.fixture
def ray_home() -> Iterator[Path]:
    """Make a folder with a short name: Ray's sockets lie in it, and their paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ws-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def ran(home: Path, *commands: list[str]) -> list[dict[str, Any]]:
    """Run commands one after the other in a process namespace; nothing of them outlives it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"WOODSHED_ENGINE_PYTHON": sys.executable, "RAY_TMPDIR": str(home), "HOME": str(home)}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", _DRIVER, json.dumps(commands)],
        env=environment, stdout=subprocess.PIPE, text=True, check=True, start_new_session=True,
    )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def woodshed_ray(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from woodshed.cli import main; main()", "ray", *arguments]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_two_nodes_come_up_are_shown_and_go_down(ray_home: Path) -> None:
    port = free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    here = ["--", "--num-cpus=1", "--object-store-memory=80000000"]
    head, joined, shown, again, living, stopped, left, none = ran(
        ray_home,
        woodshed_ray("up", "--port", str(port), *here),
        woodshed_ray("up", "--address", address, *here),
        [sys.executable, "-c", _UNTIL, "2.0 CPU", *woodshed_ray("status")],
        woodshed_ray("up", "--port", str(port), *here),
        [sys.executable, "-c", _LIVING],
        woodshed_ray("down"),
        [sys.executable, "-c", _LIVING],
        woodshed_ray("status"),
    )

    assert [one["rc"] for one in (head, joined, shown, stopped)] == [0, 0, 0, 0], (head, joined, shown, stopped)
    # The line for the next machine is the one that was typed next.
    assert f"woodshed ray up --address {address}\n" in head["out"]
    assert "private network" in head["out"] and "private network" not in joined["out"]
    assert "2.0 CPU" in shown["out"], "what stands after -- did not reach Ray"
    rows = [line for line in shown["out"].splitlines() if version("ray") in line]
    assert len(rows) == 2 and all(version("woodshed") in row and version("torch") in row for row in rows)
    assert "not the same" not in shown["out"]
    # A second head on the same port is Ray's to refuse, and what it says is what the user reads.
    assert again["rc"] == 1 and "EngineError" in again["err"] and f":{port}" in again["err"]
    assert "Traceback" not in again["err"]
    assert (living["out"].strip(), left["out"].strip()) == ("2", "0")
    assert none["rc"] == 1 and "Traceback" not in none["err"] and "woodshed ray up" in none["err"]


@pytest.mark.parametrize("command", [("up",), ("status",)])
def test_an_address_where_nothing_listens_fails_at_once(ray_home: Path, command: tuple[str, ...]) -> None:
    address = f"127.0.0.1:{free_port()}"
    (done,) = ran(ray_home, woodshed_ray(*command, "--address", address))

    assert done["rc"] == 1 and "Traceback" not in done["err"]
    assert f"EngineUnreachable: nothing answers at '{address}'" in " ".join(done["err"].split())


def test_the_parameters_in_the_examples_are_those_of_ray_start() -> None:
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for one in start.params for option in one.opts}
    cluster = yaml.safe_load((EXAMPLE / "raycluster.yaml").read_text())["spec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]

    assert {name for group in groups for name in group["rayStartParams"]} <= known
