"""What cannot be sent to a worker is named by the way that leads to it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.capture import rollout
from woodshed.cli.files import load_training
from woodshed.training.rollouts.parcel import scenario_parcel, worker_parcel
from woodshed.training.rollouts.ray_workers import RayWorkers, check_workers

cloudpickle = pytest.importorskip("ray").cloudpickle


class Client:
    def __init__(self) -> None:
        self._lock = threading.Lock()


class Agent:
    def __init__(self) -> None:
        self.client = Client()

    def answer(self, scenario: str) -> str:
        return scenario


def of_a_lock() -> Callable[..., Any]:
    lock = threading.Lock()
    return lambda scenario: lock


def of_an_attribute() -> Callable[..., Any]:
    agent = Agent()
    return lambda scenario: agent.client


def of_a_list() -> Callable[..., Any]:
    tools = {"shop": [1, Client()]}
    return lambda scenario: tools


def of_a_file() -> Callable[..., Any]:
    log = Path(os.devnull).open("w")
    return lambda scenario: log


def of_a_helper() -> Callable[..., Any]:
    agent = Agent()

    def helper() -> Any:
        return agent

    return lambda scenario: helper()


def of_a_method() -> Callable[..., Any]:
    return Agent().answer


def of_a_partial() -> Callable[..., Any]:
    return functools.partial(lambda scenario, agent: agent, agent=Agent())


def of_a_default() -> Callable[..., Any]:
    def ask(scenario: str, lock: Any = threading.Lock()) -> Any:  # noqa: B008 - what is tested
        return lock

    return ask


@pytest.mark.parametrize(
    ("make", "path", "kind"),
    [
        (of_a_lock, "<lambda>() → lock", "lock"),
        (of_an_attribute, "<lambda>() → agent.client._lock", "lock"),
        (of_a_list, "<lambda>() → tools['shop'][1]._lock", "lock"),
        (of_a_file, "<lambda>() → log", "_io.TextIOWrapper"),
        (of_a_helper, "<lambda>() → helper() → agent.client._lock", "lock"),
        (of_a_method, "answer() → self.client._lock", "lock"),
        (of_a_partial, "partial() → keywords['agent'].client._lock", "lock"),
        (of_a_default, "ask() → the default of lock", "lock"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_the_variable_that_cannot_be_pickled_is_named(make: Callable[[], Any], path: str, kind: str) -> None:
    with pytest.raises(woodshed.ConfigError) as refused:
        worker_parcel(cloudpickle, rollout(make()))

    message = str(refused.value)
    assert f"{path} is a " in message
    assert f"{kind}, which cannot be pickled" in message
    assert "Make it inside the function" in message


def test_a_scenario_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"scenarios\[3\]\['lock'\] is a _thread.lock"):
        scenario_parcel(cloudpickle, {"lock": threading.Lock()}, "scenarios[3]")


USER_FILE = """
import woodshed
prefix = "from the file: "
def helper(text):
    return prefix + text
@woodshed.rollout
def ask(text):
    return helper(text)
training = woodshed.Training(
    rollout=ask, scenarios=["a"], policy=woodshed.Policy("m"), reward=woodshed.FunctionReward(lambda t: 1.0)
)
"""
UNPACK = "import pickle, sys; print(pickle.loads(pickle.loads(sys.stdin.buffer.read())['function'])('a'))"


def test_the_file_given_to_the_command_line_travels_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER_FILE)
    parcel = worker_parcel(cloudpickle, load_training(tmp_path / "mine.py").rollout)

    unpacked = subprocess.run([sys.executable, "-c", UNPACK], input=parcel, capture_output=True, timeout=60)

    assert unpacked.stdout.decode().strip() == "from the file: a", unpacked.stderr.decode()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"count": 0}, "RayWorkers.count"),
        ({"count": 1, "rollouts_per_worker": 0}, "RayWorkers.rollouts_per_worker"),
        ({"count": 1, "cpus_per_worker": -1}, "RayWorkers.cpus_per_worker"),
        ({"count": 1, "cpu_per_worker": 1}, "did you mean 'cpus_per_worker'"),
        ({"count": 1, "address": "ray://head:10001"}, "Ray Client"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=said):
        RayWorkers(**settings)


def test_something_else_than_workers_is_refused() -> None:
    with pytest.raises(woodshed.ConfigError, match=r"workers is 4; expected woodshed.RayWorkers\(count=4\)"):
        check_workers(4)
