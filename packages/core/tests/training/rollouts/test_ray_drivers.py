"""Programs whose agent runs in Ray actors: stopped, killed, without a cluster, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pydantic
import pytest
from ray_runs import HERE

import woodshed
from woodshed.testing.waiting import eventually

SOURCE = str(Path(woodshed.__file__).parent.parent)
RUN = f"""
import asyncio, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it
sys.path.insert(0, {HERE!r})
from ray_runs import in_workers
from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import say

async def main(folder, function, scenario, **workers):
    with ScriptedEngine(lambda request: say("hello")) as engine:
        async with in_workers(Path(folder) / "run", engine, function, scenarios=[scenario], **workers) as context:
            trajectory = await context.rollout(0, "0/a/0", scenario, "a")
            print("OUTPUT", trajectory.status, trajectory.output, trajectory.error)
"""
WAITS = RUN + "import ray_agents; asyncio.run(main(sys.argv[1], ray_agents.waits, sys.argv[1], address=sys.argv[2]))"


def start(program: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **env},
    )  # fmt: skip


@pytest.mark.parametrize("ends_by", [signal.SIGKILL, signal.SIGINT])
async def test_workers_end_with_the_program_however_it_ends(
    cluster: str, tmp_path: Path, ends_by: signal.Signals
) -> None:
    with start(WAITS, str(tmp_path), cluster) as program:
        begun = tmp_path / "begun"
        await eventually(lambda: program.poll() is not None or (begun.exists() and begun.read_text()), "the agent runs")
        assert program.poll() is None, program.communicate()[0]
        worker = int(begun.read_text())
        program.send_signal(ends_by)
        said, _ = program.communicate(timeout=60)

    await eventually(lambda: not psutil.pid_exists(worker), "the worker has ended")
    # Ctrl-C lets the agent clean up, as it does without workers.
    assert (tmp_path / "ended").exists() == (ends_by == signal.SIGINT)
    assert ("KeyboardInterrupt" in said) == (ends_by == signal.SIGINT)


def test_a_program_sends_its_own_functions_and_the_modules_that_it_is_asked_to(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "shop.py").write_text("def greet(text):\n    return 'shop ' + text\n")
    program = RUN + (
        "import os\nsys.path.insert(0, sys.argv[1] + '/beside')\nimport shop\n"
        "here = os.getpid()\n"
        "def ask(text):\n    assert os.getpid() != here\n    return shop.greet(text)\n"
        "env = {'working_dir': sys.argv[1] + '/beside'} if sys.argv[2] == 'sent' else None\n"
        "asyncio.run(main(sys.argv[1], ask, 'a', address=sys.argv[3], runtime_env=env))\n"
    )

    with (
        start(program, str(tmp_path), "sent", cluster) as sent,
        start(program, str(tmp_path), "left out", cluster) as left_out,
    ):
        done, failed = sent.communicate(timeout=240)[0], left_out.communicate(timeout=240)[0]

    assert "OUTPUT completed shop a None" in done
    assert "the module 'shop' exists only here" in failed
    assert f"runtime_env={{'working_dir': '{tmp_path / 'beside'}'}}" in failed


def test_a_program_may_start_a_cluster_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    program = RUN + (
        "import os\nhere = os.getpid()\n"
        "def ask(text):\n    return text + str(os.getpid() != here)\n"
        "asyncio.run(main(sys.argv[1], ask, 'elsewhere: ', address='local', cpus_per_worker=0.5))\n"
    )

    with start(program, str(tmp_path), RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES="100000000") as running:
        said, _ = running.communicate(timeout=240)

    assert "OUTPUT completed elsewhere: True None" in said


def test_where_no_cluster_runs_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    pytest.importorskip("ray")

    with start(WAITS, str(tmp_path), "127.0.0.1:9") as program:
        said, _ = program.communicate(timeout=120)

    assert "ConfigError: no Ray cluster answers at RayWorkers.address='127.0.0.1:9'" in said
    assert "ray start --head" in said


def test_without_ray_everything_but_workers_works_and_never_imports_it(tmp_path: Path) -> None:
    for entry in Path(pydantic.__file__).parent.parent.iterdir():
        if not entry.name.lower().startswith(("ray", "_virtualenv")):
            (tmp_path / entry.name).symlink_to(entry)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {SOURCE!r}]\n"
        "import woodshed\n"
        "about = dict(rollout=len, scenarios=['a'], policy=woodshed.Policy('m'),\n"
        "             reward=woodshed.FunctionReward(lambda t: 1.0))\n"
        "woodshed.Training(**about)\n"
        "print('RAY', 'ray' in sys.modules)\n"
        "woodshed.Training(**about, workers=woodshed.RayWorkers(count=2))\n"
    )

    said = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=120)

    assert said.stdout == "RAY False\n"
    assert "ConfigError: workers=RayWorkers(...), and 'ray' is not installed here: pip install 'woodshed[ray]'" in (
        said.stderr
    )
