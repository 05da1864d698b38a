"""An MCP server in, a trained policy out: on woodshed's own engine, with a scripted vLLM behind its gateway."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.cli import main
from woodshed.errors import RolloutError
from woodshed.mcp import run as mcp_run
from woodshed.testing import Reply, ScriptedEngine, call_tool, in_order, say, scripted_rollout
from woodshed.testing.conformance.engine import SCRIPTED_LOSS, GatewayEngine
from woodshed_tiny_world import policy_path

ROOT = Path(__file__).parents[1]
SHOP = str(ROOT / "examples" / "mcp" / "shop_server.py")
LOOKS = ("get_price", "get_stock", "get_delivery")


@contextmanager
def serving(*command: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a server over HTTP for one block; yield its address and its process."""
    line = [sys.executable, *command, "--http"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip(), running
        finally:
            running.kill()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(SHOP, "--db", str(tmp_path_factory.mktemp("shop") / "shop.sqlite")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def engine(needs_engine: None) -> Iterator[GatewayEngine]:
    running = GatewayEngine(policy_path()).start()
    yield running
    running.close()


def test_the_agent_sends_exactly_the_requests_that_the_tiny_models_were_taught_on(shop: str) -> None:
    taught = json.loads((ROOT / "examples/tiny_world/train_models/requests/langgraph.json").read_text())
    agent = woodshed.mcp.agent(shop, tools=LOOKS)
    script = in_order(call_tool("get_stock", id="c1", item="Tuba"), say("Tuba: 12 left."))

    with ScriptedEngine(script) as scripted, scripted_rollout(scripted):
        asyncio.run(agent("Is the Tuba still in stock?"))
        sent = [seen.body for seen in scripted.requests]

    # The limit of an answer is the policy's (`Policy.max_tokens`), not the agent's. As text: the order of keys is read.
    assert [json.dumps(body) for body in sent] == [
        json.dumps({k: v for k, v in body.items() if k != "max_completion_tokens"}) for body in taught
    ]


def test_the_example_that_tries_a_server_shows_what_its_tools_said(shop: str) -> None:
    example = [sys.executable, str(ROOT / "examples" / "mcp" / "try_server.py"), shop, "--rollouts", "3"]

    done = subprocess.run(example, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "music-shop: 7 tools, 4 taken\n20 tasks, " in done.stdout
    assert "sessions of the rollouts: 3 opened, 3 closed; 3 tool calls, 0 errors" in done.stdout


def training(engine: GatewayEngine, server: str, folder: Path, **changes: Any) -> woodshed.mcp.McpTraining:
    settings: dict[str, Any] = {
        "server": woodshed.mcp.Server.of(server),
        "policy": woodshed.Policy(str(policy_path())),
        "reward": woodshed.FunctionReward(lambda trajectory: float(len(trajectory.calls))),
        "engine": woodshed.Engine.connect(engine.url),
        "config": woodshed.TrainConfig(
            steps=1, group_size=3, scenarios_per_step=2, max_staleness=0, loss=SCRIPTED_LOSS
        ),
        "folder": folder,
        "compare": False,
        "checks": False,
    }
    return woodshed.mcp.McpTraining(**settings | changes)


def write_scenarios(folder: Path, tasks: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"s{n}", "task": task, "split": "held_out" if n == 0 else "train"} for n, task in enumerate(tasks)]
    (folder / "scenarios.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def by_turn(*replies: Callable[[int], Reply]) -> Any:
    """A script that answers by the number of tool results it is shown; each reply knows how many came before it."""
    served = [0]

    def script(request: dict[str, Any]) -> Reply:
        turn = sum(m["role"] == "tool" for m in request["messages"])
        served[0] += turn == 0
        return replies[min(turn, len(replies) - 1)](served[0])

    return script


def test_a_run_is_reported_and_a_server_that_goes_stops_it_and_loses_nothing_finished(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    write_scenarios(tmp_path, ["held out", "one", "two"])
    engine.vllm.play(by_turn(lambda n: call_tool("get_stock", item="Tuba"), lambda n: say("66 left")))
    config = woodshed.TrainConfig(steps=2, group_size=2, scenarios_per_step=2, max_staleness=0, loss=SCRIPTED_LOSS)
    judged: list[str] = []
    server: list[subprocess.Popen[str]] = []

    def reward(trajectory: woodshed.Trajectory) -> float:
        judged.append(trajectory.rollout_id)
        if len(judged) == 4:
            server[-1].send_signal(signal.SIGKILL)
            server[-1].wait()
        return float(len(judged) % 2)

    same = woodshed.FunctionReward(reward)

    def run() -> tuple[dict[str, Any], int]:
        asked = len(engine.vllm.asked)
        with serving(SHOP, "--db", str(tmp_path / "shop.sqlite")) as (url, process):
            server.append(process)
            done = training(engine, url, tmp_path, reward=same, config=config).run()
        return done.figures, len(engine.vllm.asked) - asked

    with pytest.raises(RolloutError, match=r"all 4 rollouts of the step failed.*nothing answers at"):
        run()
    figures, asked = run()

    assert figures["steps"] == 2
    assert len(judged) == len(set(judged)) == 8  # four before the server went, four after it came back
    assert asked == 2 * (4 + 1)  # two calls for each rollout of the second step and of the evaluation after it
    assert figures["sessions_opened"] == figures["sessions_closed"] == 1 + 4 + 1
    assert (figures["success_before"], figures["tools_found"], figures["masked_rollouts"]) == (1.0, 7, 0)
    assert json.loads((tmp_path / "summary.json").read_text()) == figures
    report = (tmp_path / "report.md").read_text()
    assert "### held out" in report and "tool get_stock: 66 left" in report
    assert "- left out: `refund_order` (looks destructive" in report


def test_a_run_cut_off_in_its_report_comes_back_to_it_and_trains_nothing_again(
    engine: GatewayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenarios(tmp_path, ["held out", "one", "two"])
    engine.vllm.play(by_turn(lambda n: call_tool("get_stock", item="Tuba"), lambda n: say(f"{n} left")))
    whole = mcp_run.write_markdown

    def cut_off(*_: Any) -> None:
        monkeypatch.setattr(mcp_run, "write_markdown", whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(mcp_run, "write_markdown", cut_off)
    with serving(SHOP, "--db", str(tmp_path / "shop.sqlite")) as (url, _):
        with pytest.raises(KeyboardInterrupt):
            training(engine, url, tmp_path).run()
        asked = len(engine.vllm.asked)
        again = training(engine, url, tmp_path).run()

    assert len(engine.vllm.asked) == asked
    assert (again.figures["steps"], len(list(tmp_path.glob("training*")))) == (1, 1)
    assert (tmp_path / "report.md").exists()


def woodshed_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[Any, str]:
    """Run the command line here; return its exit status and all it said, with blanks made one."""
    monkeypatch.setattr(sys, "argv", ["woodshed", "mcp", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    status = None
    try:
        main()
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, re.sub(r"\s+", " ", said.out + said.err)


def test_the_command_line_shows_tools_and_makes_scenarios(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tools = woodshed_says(capsys, monkeypatch, shop, "--only", "tools", "--allow-tool", "place_order")
    status, made = woodshed_says(
        capsys, monkeypatch, shop, "--only", "scenarios", "--scenarios", "12", "--run-dir", str(tmp_path)
    )

    assert "7 tools, 5 taken; 9 prompts" in tools
    assert "allow it with --allow-tool refund_order" in tools
    assert not status and "9 for training and 3 held out" in made
    assert len((tmp_path / "scenarios.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9/mcp", "--only", "tools"], "McpServerUnreachable: nothing answers at"),
        (["SHOP"], "--policy and --judge not given: training needs"),
        (["SHOP", "--policy", "m/m"], "--judge not given"),
        (["SHOP", "--only", "tools", "--tools", "get_stok"], "does not list; it has get_stock"),
        (["SHOP", "x", "--only", "tools"], "'x' follows the address"),
        (["SHOP", "--header", "secret-value", "--only", "tools"], "a --header cannot be read; expected 'NAME: VALUE'"),
        (["python x.py", "--env", "NO_SUCH_VARIABLE", "--only", "tools"], "'NO_SUCH_VARIABLE', which is not set here"),
        (["SHOP", "--framework", "autogen", "--policy", "m/m", "--judge", "j"], "no agent is written in 'autogen'"),
        (["SHOP", "--policy", "m/m", "--judge", "j", "--engine", "http://e", "--serve", "j=x"], "serves its own"),
        (["SHOP", "--held-out", "2", "--only", "scenarios"], "held-out share is 2.0"),
    ],
)
def test_what_the_command_line_cannot_use_is_said_in_one_line(
    shop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, found = woodshed_says(capsys, monkeypatch, *(shop if word == "SHOP" else word for word in arguments))

    assert status == 1
    assert said in found
    assert "Traceback" not in found and "secret-value" not in found


def test_the_help_teaches(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, shown = woodshed_says(capsys, monkeypatch, "--help")

    assert all(
        word in shown for word in ("--only tools", "scenarios.jsonl", "report.md", "--allow-tool", "--framework")
    )
