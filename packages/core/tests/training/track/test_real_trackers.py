"""The real packages, read back by their own readers. `make test-trackers` runs these where all four are installed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from sft_engine import SftEngine, conversations
from tracked_runs import SETTINGS, begin, finish, measure, send, take_step, whole_run

import woodshed
from woodshed.testing.waiting import eventually
from woodshed.training.track.position import TRACKING, read_position
from woodshed.training.track.processes import behind, tracking

REWARDS = {1: 0.25, 2: 0.5, 3: 0.75}
SUCCESS = {0: 0.3, 2: 0.6, 3: 0.9}
LOW = {step: pytest.approx(value - 0.1) for step, value in SUCCESS.items()}


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have accounts and databases; no test may write to them."""
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "false")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def needs(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed; `make test-trackers` installs it")


def two_lives(name: str, folder: Path) -> None:
    """Send a run that is stopped after two steps and resumed."""
    store = begin(folder, limits={"config": {"steps": 2}})
    measure(store, "before", 0.3)
    take_step(store, 0)
    take_step(store, 1)
    send([name], store)
    store.claim(SETTINGS, {"config": {"steps": 3}})  # such a setting may change
    measure(store, "after_step_2", 0.6)
    take_step(store, 2)
    measure(store, "after", 0.9)
    store.add_warnings(["the judge is slow"])
    finish(store)
    send([name], store)
    assert store.fact("warnings") == ["the judge is slow"], "a tracker failed"
    store.close()


# --- Weights & Biases -------------------------------------------------------------------------------------------------


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of a W&B file: LevelDB's log format, with W&B's own messages in it."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


def wandb_runs(folder: Path) -> list[dict[str, Any]]:
    runs = []
    for file in sorted((folder / TRACKING / "wandb").glob("*run-*/*.wandb")):
        run: dict[str, Any] = {"id": None, "config": {}, "history": [], "summary": {}}
        for record in wandb_records(file):
            match record.WhichOneof("record_type"):
                case "run":
                    run["id"] = record.run.run_id
                    run["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
                case "history":
                    items = record.history.item
                    run["history"].append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
                case "summary":
                    updates = record.summary.update
                    run["summary"] |= {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}
                case "exit":
                    run["exit"] = record.exit.exit_code
        runs.append(run)
    return runs


def by_step(rows: list[dict[str, Any]], name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in rows if name in row}


def test_wandb_has_the_run_offline_in_one_run_over_both_lives(tmp_path: Path) -> None:
    needs("wandb")
    two_lives("wandb", tmp_path / "r")
    first, second = wandb_runs(tmp_path / "r")

    assert first["id"] == second["id"] == read_position(tmp_path / "r", "wandb").tracked_id
    rows = first["history"] + second["history"]
    assert by_step(rows, "reward") == REWARDS
    assert (by_step(rows, "held_out/success"), by_step(rows, "held_out/success_low")) == (SUCCESS, LOW)
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert first["config"]["policy"] == SETTINGS["policy"]
    assert second["summary"]["warnings"] == ["the judge is slow"]
    assert second["summary"]["summary/success_after"] == 0.9
    assert (first["exit"], second["exit"]) == (1, 0)


def test_wandb_without_a_key_is_kept_offline_and_says_how_to_send_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("wandb")
    monkeypatch.delenv("WANDB_MODE")
    store = whole_run(tmp_path / "r")
    send(["wandb"], store)

    (warning,) = store.fact("warnings")[1:]
    assert "cannot be used online" in warning and f"wandb sync {tmp_path / 'r' / TRACKING / 'wandb'}/" in warning
    (run,) = wandb_runs(tmp_path / "r")
    assert by_step(run["history"], "reward") == REWARDS


# --- MLflow -----------------------------------------------------------------------------------------------------------


ignores_mlflows_own_warnings = pytest.mark.filterwarnings("ignore")
"""MLflow's packages warn while they are imported."""


def mlflow_run(uri: str) -> tuple[Any, dict[str, dict[int, float]]]:
    """Return the one run of the experiment, and its numbers by name and step, as the client reads them."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("woodshed")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for name in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, name)
        assert len({p.step for p in points}) == len(points), f"{name} was sent twice"
        found[name] = {p.step: p.value for p in points}
    return run, found


@ignores_mlflows_own_warnings
def test_mlflow_has_the_run_in_its_database_in_one_run_over_both_lives(tmp_path: Path) -> None:
    needs("mlflow")
    two_lives("mlflow", tmp_path / "r")
    run, values = mlflow_run(os.environ["MLFLOW_TRACKING_URI"])

    assert run.info.run_id == read_position(tmp_path / "r", "mlflow").tracked_id
    assert (values["reward"], values["held_out/success"], values["held_out/success_low"]) == (REWARDS, SUCCESS, LOW)
    assert run.data.params["policy.lora.rank"] == "8"
    assert run.data.tags["mlflow.note.content"] == "- the judge is slow"
    assert run.data.tags["summary.success_after"] == "0.9"
    assert run.info.status == "FINISHED"


class MlflowServer:
    """MLflow's own server on loopback, on a database, that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        artifacts = ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command, *store, *artifacts], stdout=log, stderr=log, start_new_session=True
            )
        await eventually(lambda: asyncio.to_thread(self._answers), "MLflow's server answers", within_s=300)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@asynccontextmanager
async def mlflow_server(folder: Path) -> AsyncIterator[MlflowServer]:
    server = MlflowServer(folder)
    try:
        await server.start()
        yield server
    finally:
        server.kill()


@ignores_mlflows_own_warnings
@pytest.mark.timeout(1200)
async def test_a_server_of_mlflow_that_is_gone_delays_nothing_and_has_everything_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs("mlflow")
    folder = tmp_path / "r"
    async with mlflow_server(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        store = begin(folder)
        with caplog.at_level(logging.WARNING, "woodshed.training"):
            async with tracking(["mlflow"], store, lambda line: None, last_s=20):
                measure(store, "before", 0.3)
                take_step(store, 0)
                take_step(store, 1)
                await eventually(lambda: read_position(folder, "mlflow").steps == 2, "two steps are sent", 120)
                server.kill()
                measure(store, "after_step_2", 0.6)
                take_step(store, 2)
                measure(store, "after", 0.9)
                finish(store)
                clock = time.monotonic()
        assert time.monotonic() - clock < 30
        (warning,) = [r.getMessage() for r in caplog.records if r.name == "woodshed.training"]
        assert "run the same command again" in warning
        assert behind(["mlflow"], store) == ["mlflow"]

        await server.start()
        async with tracking(["mlflow"], store, lambda line: None):
            pass
        run, values = await asyncio.to_thread(mlflow_run, server.url)
        assert (values["reward"], values["held_out/success"]) == (REWARDS, SUCCESS)
        assert run.info.status == "FINISHED"
        assert behind(["mlflow"], store) == []


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
async def test_a_server_that_never_answers_is_left_after_the_time_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    needs(name)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE")
        store = whole_run(tmp_path / "r")
        clock = time.monotonic()
        async with tracking([name], store, lambda line: None, last_s=8):
            pass
        seconds = time.monotonic() - clock

    assert seconds < 20
    (warning,) = store.fact("warnings")[1:]
    assert f"{name} has 0 of 3 steps: it did not finish within" in warning
    assert behind([name], store) == [name]
    await eventually(lambda: not processes_of(tmp_path / "r"), "its processes are gone")


def processes_of(folder: Path) -> list[str]:
    """Return the trackers' processes that are at work on the run in `folder`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command and "woodshed.training.track" in command:
            found.append(command)
    return found


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_reads_both_lives_as_one_run(tmp_path: Path) -> None:
    needs("tensorboardX")
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    two_lives("tensorboard", tmp_path / "r")
    read = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    read.Reload()

    assert {e.step: e.value for e in read.Scalars("reward")} == REWARDS
    assert {e.step: e.value for e in read.Scalars("held_out/success")} == pytest.approx(SUCCESS)
    assert {e.step: e.value for e in read.Scalars("held_out/success_low")} == LOW
    assert len(read.Scalars("reward")) == 3
    texts = {tag: read.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    assert '"rank": 8' in texts["config/text_summary"]
    assert texts["warnings/text_summary"] == "- the judge is slow"
    assert '"success_after": 0.9' in texts["summary/text_summary"]


def test_tensorboard_has_the_losses_of_an_sft_and_of_what_it_holds_out(tmp_path: Path) -> None:
    needs("tensorboardX")
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    woodshed.sft(
        conversations(tmp_path), policy="m", engine=SftEngine(), run_dir=tmp_path / "r", epochs=2, batch_size=1,  # type: ignore[arg-type]
        held_out=0.5, track=["tensorboard"],
    )  # fmt: skip
    read = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    read.Reload()

    assert {e.step: e.value for e in read.Scalars("nll")} == pytest.approx({1: 2.0, 2: 1.9, 3: 1.8, 4: 1.7})
    assert {e.step: e.value for e in read.Scalars("held_out/loss")} == pytest.approx({0: 2.0, 2: 1.8, 4: 1.6})
    assert "summary/text_summary" in read.Tags()["tensors"]


# --- Trackio ----------------------------------------------------------------------------------------------------------


def trackio(*arguments: str) -> Any:
    """Return what Trackio's own command line reads."""
    command = "import sys; from trackio.cli import main; sys.argv[0] = 'trackio'; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_trackio_has_the_run_in_one_run_over_both_lives(tmp_path: Path) -> None:
    needs("trackio")
    two_lives("trackio", tmp_path / "r")
    name = str(read_position(tmp_path / "r", "trackio").tracked_id)
    of_run = ["--project", "woodshed", "--run", name]

    assert trackio("list", "runs", "--project", "woodshed")["runs"] == [name]
    for metric, expected in {"reward": REWARDS, "held_out/success": SUCCESS, "held_out/success_low": LOW}.items():
        points = trackio("get", "metric", *of_run, "--metric", metric)["values"]
        assert {p["step"]: p["value"] for p in points} == expected
        assert len(points) == len(expected)
    assert trackio("get", "run", *of_run)["config"]["policy"] == SETTINGS["policy"]
    (alert,) = trackio("list", "alerts", *of_run)["alerts"]
    assert (alert["text"], alert["level"]) == ("the judge is slow", "warn")
