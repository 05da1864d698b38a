"""`woodshed view` and `woodshed show` as commands: what they print, and what they say where they cannot."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
from recorded_run import Recorded
from view_client import untouched

WOODSHED = (sys.executable, "-m", "woodshed")


def run(*arguments: str | Path, cwd: Path | None = None, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [*WOODSHED, *map(str, arguments)] if code is None else [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def test_show_prints_figures_steps_and_warnings(folder: Path) -> None:
    with untouched(folder):
        shown = run("show", folder)

    assert shown.returncode == 0, shown.stderr
    assert "recorded  finished, 3 of 3 steps" in shown.stdout
    assert "held-out success 0.500 [0.100, 0.900] after step 3 of 2 rollouts  best" in shown.stdout
    assert [line.split()[0] for line in shown.stdout.splitlines() if line[:4].strip().isdigit()][:3] == ["1", "2", "3"]
    assert "something <b>odd</b>" in shown.stdout


def test_show_prints_a_step_and_its_best_and_worst_attempt(folder: Path) -> None:
    step = run("show", folder, "--step", "2")
    both = run("show", folder, "--step", "2", "--best", "--worst")

    assert "price of/a lamp" in step.stdout and "a&b=c?d#e%2F <i>" in step.stdout
    assert both.stdout.index("four good lamps") < both.stdout.index("no idea")
    assert "worth 0.9" in both.stdout and "trained: advantage" in both.stdout
    assert "assistant: calls look(" in both.stdout and "result of look: found" in both.stdout


def test_show_prints_no_control_code_of_an_agent(folder: Path) -> None:
    shown = run("show", folder, "--worst")

    assert "no idea \N{REPLACEMENT CHARACTER}[31m" in shown.stdout
    assert "\x1b" not in shown.stdout


def test_show_names_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    empty = Recorded(tmp_path / "empty")
    empty.begin()
    empty.close()
    for arguments, said in [
        ((folder, "--step", "9"), "the run has no judged group of step 9; it has those of steps 1 to 3"),
        ((tmp_path / "empty", "--best"), "has no judged group yet"),
        ((tmp_path / "none",), "there is no folder"),
    ]:
        shown = run("show", *arguments)
        assert (shown.returncode, shown.stdout) == (1, "") and said in shown.stderr
    assert "no step is finished yet" in run("show", tmp_path / "empty").stdout


def test_view_serves_the_newest_run_until_it_is_stopped(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "runs" / "mine")
    command = [*WOODSHED, "view", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        address = next(line.strip() for line in process.stdout if line.startswith("http"))
        try:
            assert address.startswith("http://127.0.0.1:") and len(address.rstrip("/").rpartition("/")[2]) >= 32
            assert [r["name"] for r in httpx.get(f"{address}api/runs").json()] == ["mine"]
            assert "<title>woodshed</title>" in httpx.get(address).text
            assert httpx.get(address.rstrip("/")).status_code == 307
        finally:
            process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")


def test_view_says_that_a_port_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        shown = run("view", folder, "--no-browser", "--port", str(port))

    assert shown.returncode == 1
    assert f"port {port} cannot be used: another program has it; name another one (--port N)" in shown.stderr


def test_view_names_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    for arguments, said in [
        ((tmp_path / "x",), "there is no folder"),
        ((folder, tmp_path), "holds no run"),
        ((), "there is no run in"),
    ]:
        shown = run("view", "--no-browser", *arguments, cwd=tmp_path)
        assert shown.returncode == 1 and said in shown.stderr, shown.stderr


def test_without_the_extra_view_says_how_to_get_it_and_show_works(folder: Path) -> None:
    hidden = "import sys; sys.modules.update(dict.fromkeys(['uvicorn', 'starlette', 'tokenizers'])); "
    main = "from woodshed.cli import main; main()"

    view = run("view", folder, "--no-browser", code=hidden + main)
    show = run("show", folder, "--best", code=hidden + main)

    assert view.returncode == 1 and "pip install 'woodshed[view]'" in view.stderr and "woodshed show RUN" in view.stderr
    assert show.returncode == 0 and "four good lamps" in show.stdout
