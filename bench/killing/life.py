"""A training from its first start to its end, through all its lives, as it can be seen from outside."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from killing import processes
from killing.child import GROUPS, MEMBERS
from killing.judge import GatedJudge

_CHILD = Path(__file__).parent / "child.py"
_WITHIN_S = 150.0


class ClientEnded(Exception):
    """The client ended while something was awaited of it."""


class Life:
    """Starts and watches the training in `folder`."""

    def __init__(self, folder: Path, steps: int, judge: GatedJudge, trainers: int = 1) -> None:
        """Prepare; nothing runs yet."""
        self.folder = folder
        self.steps = steps
        self.judge = judge
        self.least_trainers = trainers
        self.trainers = trainers
        """Processes that share each step from the next start on."""
        self.replicas = 1
        """vLLM servers of the policy from the next start on."""
        self.engine = "local"
        """Where they run from the next start on; a name of `child.ENGINES`."""
        self.starts = 0
        self.began = 0.0
        self._client: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(trust_env=False, timeout=5)

    @property
    def client(self) -> int | None:
        """Process id of the client while it is alive."""
        return self._client.pid if self._client is not None and self._client.poll() is None else None

    @property
    def home(self) -> Path:
        """The engine's folder."""
        return self.folder / "engine"

    @property
    def log(self) -> Path:
        """What the client printed, in all its lives."""
        return self.folder.with_name("client.log")

    def start(self) -> None:
        """Run the same command again. The one setting that may change does, so config.json is written each time."""
        self.starts += 1
        self.began = time.time()
        with self.log.open("ab") as log:
            self._client = subprocess.Popen(
                [
                    *(sys.executable, str(_CHILD), str(self.folder), str(self.steps), self.judge.url),
                    *(str(300 + self.starts), str(self.trainers), str(self.replicas), self.engine),
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def wait(self, holds: Callable[[], Any], what: str, *, every_s: float = 0.002, alive: bool = True) -> Any:
        """Return what `holds` returns once it is true.

        Raises:
            TimeoutError: it never was.
            ClientEnded: the client ended meanwhile, which `alive` forbids.
        """
        deadline = time.monotonic() + _WITHIN_S
        while not (found := holds()):
            if alive and self.client is None:
                raise ClientEnded(f"the client ended before {what}; its output ends:\n{self.log.read_text()[-2000:]}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {_WITHIN_S:.0f} s: {what}")
            time.sleep(every_s)
        return found

    def process(self, name: str) -> int | None:
        """Return the id of one of the training's processes, if it runs."""
        if self.client is None or name == "client":
            return self.client
        if name in ("vLLM", "replica"):
            return self._vllm()
        if name == "raylet":
            return processes.named(self.client, "raylet")
        is_on_ray = self.engine == "ray"
        if name == "second trainer" or (name == "trainer" and is_on_ray):
            number = int(name == "second trainer")
            return self._rank_on_ray(number) if is_on_ray else processes.rank(self.client, number)
        module = {
            "gateway": "woodshed.engine",
            "fork server": "woodshed.engine.vllm.fork_server",
            "trainer": "woodshed.engine.trainer.worker",
            "launcher": f"woodshed.engine.trainer.{'launch_ray' if is_on_ray else 'launch'}",
        }[name]
        return processes.child_running(self.client, module)

    def step(self) -> int:
        """Return the number of the step in hand, from 0: how many are finished."""
        return int(self._one("run.sqlite", "SELECT count(*) FROM steps") or 0)

    def rollouts(self, group: int | str) -> int:
        """Return how many rollouts of a step or an evaluation are stored."""
        return int(self._one("run.sqlite", "SELECT count(*) FROM trajectories WHERE slot GLOB ?", f"{group}/*") or 0)

    def failed(self, group: int | str) -> int:
        """Return how many stored rollouts of a step or an evaluation did not come to their end."""
        query = "SELECT count(*) FROM trajectories WHERE slot GLOB ? AND json_extract(body, '$.status') != 'completed'"
        return int(self._one("run.sqlite", query, f"{group}/*") or 0)

    def judged(self, step: int) -> int:
        """Return how many groups of a step have a stored verdict."""
        query = "SELECT count(*) FROM judgements WHERE group_id GLOB ?"
        return int(self._one("run.sqlite", query, f"{step}/*") or 0)

    def fact(self, name: str) -> Any:
        """Return a stored fact of the run, or None."""
        body = self._one("run.sqlite", "SELECT body FROM facts WHERE name = ?", name)
        return json.loads(body) if body else None

    def open_sessions(self) -> int:
        """Return how many rollouts of this life have a session at the engine that is not sealed."""
        query = "SELECT count(*) FROM sessions WHERE sealed_s IS NULL AND opened_s > ?"
        return int(self._one("engine/engine.sqlite", query, self.began) or 0)

    def stored(self) -> int:
        """Return a number that grows with everything the run finishes."""
        tables = ("trajectories", "judgements", "steps", "facts WHERE name LIKE 'success%'")
        return sum(int(self._one("run.sqlite", f"SELECT count(*) FROM {table}") or 0) for table in tables)

    def served_version(self) -> int | None:
        """Return the version that the engine's policy has, by its own word."""
        for port in self._ports():  # of which Ray has some
            with suppress(httpx.HTTPError, OSError, ValueError, KeyError, IndexError):
                key = json.loads((self.home / "engine.json").read_text())["api_key"]
                headers = {"authorization": f"Bearer {key}"}
                health = self._http.get(f"http://127.0.0.1:{port}/woodshed/v1/health", headers=headers).json()
                return int(health["policies"][0]["version"])
        return None

    def checkpoints(self) -> Path:
        """Return the folder of the policy's checkpoints, which may not exist yet."""
        return self.home / "policies" / "policy" / str(self.fact("run_id")) / "checkpoints"

    def versions(self) -> list[int]:
        """Return the versions with a checkpoint, oldest first."""
        folder = self.checkpoints()
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    def is_writing_checkpoint(self) -> bool:
        """Whether a checkpoint is half-written right now."""
        folder = self.checkpoints()
        return folder.is_dir() and any(p.name[:1] == "." and p.name[1:].isdigit() for p in folder.iterdir())

    def is_sampled(self) -> bool:
        """Whether the step in hand waits for the judge alone: all is sampled, and each group is judged or asks for it.

        A group of equal attempts is judged without a request.
        """
        step = self.step()
        waiting = self.judge.waiting
        return (
            waiting > 0
            and self.rollouts(step) == GROUPS * MEMBERS
            and self.judged(step) + waiting == GROUPS
            and self.process("trainer") is not None
        )

    def _vllm(self) -> int | None:
        file = self.home / "servers.json"
        with suppress(OSError, ValueError, KeyError):  # not there yet, or just being written
            if file.stat().st_mtime > self.began:
                listed = json.loads(file.read_text())
                pid = int((listed.get("policy") or listed["policy#1"])["pid"] or 0)
                return pid if pid and psutil.pid_exists(pid) else None  # of a replica that is back, once it answers
        return None

    def _rank_on_ray(self, number: int) -> int | None:
        """Return the process that Ray Train has last said to be a rank, if it lives."""
        for log in self.home.glob("policies/policy/*/trainer.log"):
            said = re.findall(rf"pid=(\d+)\) world_rank={number}\b", log.read_text())
            if said and any(p.pid == int(said[-1]) for p in processes.tree(self.client or 0)):
                return int(said[-1])
        return None

    def _ports(self) -> list[int]:
        """Return the ports that the engine's process listens on."""
        with suppress(psutil.NoSuchProcess):
            listening = psutil.Process(self.process("gateway") or 0).net_connections("tcp")
            return [c.laddr.port for c in listening if c.status == "LISTEN"]
        return []

    def _one(self, database: str, query: str, *values: Any) -> Any:
        file = self.folder / database
        if not file.is_file():
            return None
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as db:
            try:
                row = db.execute(query, values).fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return None  # the database is just being made
                raise
        return row[0] if row else None
