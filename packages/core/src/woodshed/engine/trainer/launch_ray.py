"""Starts the ranks of a policy on a Ray cluster: `python -m woodshed.engine.trainer.launch_ray`, by `process.Trainer`.

Ray Train places the ranks and joins them; each runs the same function as on one machine. What the engine asks goes to
the first rank through a queue on the cluster, and its answers come back through another, with the files that it wrote.
If a rank ends, Ray Train ends the others and this process ends, too; if this process is killed, Ray ends its job.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.trainer.lifeline import die_with_parent
from woodshed.engine.trainer.ranks import WAIT
from woodshed.engine.trainer.ray_place import wait_for_room
from woodshed.engine.trainer.ray_rank import InterfaceConfig, Job, train
from woodshed.engine.trainer.travel import Opening, keep, opening
from woodshed.engine.trainer.worker import log_to_stderr, own_stdout
from woodshed.engine.trainer.worker_protocol import LENGTH, QUESTIONS, Refused, Start, Step, frame, read_frame
from woodshed.errors import TrainError

_log = logging.getLogger("woodshed.trainer")

PLACED_WITHIN_S = 30.0

_FOR_RANKS = (
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_OFFLINE",
    "OMP_WAIT_POLICY",
    "OMP_NUM_THREADS",
)
"""Environment variables that a rank takes over from the engine; for others, such as a token, its node's are used."""
_RAY_TRAIN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PLACED_WITHIN_S),
    # The ranks exchange nothing while they are ended.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    # A rank that is preempted is one that has ended; and a process less.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


class JobTrainer(TorchTrainer):
    """Ray Train without its actor that outlives the job to remove placement groups; they end with the job anyway.

    Without Ray's dashboard that actor finds out nothing, says so every second, and never ends.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if type(one).__name__ != "PlacementGroupCleanerCallback"]


def main() -> None:
    """Run `sys.argv[1]` ranks on the cluster at `sys.argv[3]`, until the parent `sys.argv[2]` is done."""
    count, parent, address = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    pipe = own_stdout()
    log_to_stderr()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # what the ranks print goes through Ray to here, and so to the log
    die_with_parent(parent)
    if (body := read_frame(sys.stdin.buffer)) is None:
        return
    start = QUESTIONS.validate_json(body)
    assert isinstance(start, Start)
    try:
        opened = opening(start)
        each = _joined(address)
        wait_for_room(count, each, PLACED_WITHIN_S)
    except TrainError as error:
        _write(pipe, frame(Refused(message=str(error))))
        return
    _run(count, each, opened, pipe)


def _joined(address: str) -> dict[str, float]:
    """Join the cluster and return what each rank needs of it.

    Raises:
        TrainError: There is none at that address.
    """
    os.environ |= {**_RAY_TRAIN, **os.environ}
    variables = {name: os.environ[name] for name in (*_FOR_RANKS, *_RAY_TRAIN) if name in os.environ}
    try:
        ray.init(address=address, runtime_env={"env_vars": variables}, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TrainError(
            f"the trainer cannot join the Ray cluster at {address!r}: {' '.join(str(error).split())}. Expected the "
            "address of a cluster to which the engine's machine belongs; `woodshed ray status` tells whether it runs"
        ) from error
    return {"CPU": 1.0, **({"GPU": 1.0} if ray.cluster_resources().get("GPU") else {})}


def _run(count: int, each: dict[str, float], opened: Opening, pipe: BinaryIO) -> None:
    """Pass questions and answers on until the engine has no more; ends this process where a rank has ended."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    questions, answers = (Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here}) for _ in range(2))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    job = Job(
        opened=ray.put(opened),
        questions=questions,
        answers=answers,
        threads=int(threads) if threads.isdigit() else None,
    )
    home = Path(opened.start.home)
    talking = threading.Thread(target=_or_end, args=(lambda: _talk(questions, answers, pipe, home),), daemon=True)
    talking.start()
    has_gpu = "GPU" in each
    with scratch_folder("woodshed-ray-train-") as unused:
        trainer = JobTrainer(
            train,
            train_loop_config={"job": job},
            torch_config=InterfaceConfig(
                backend="cpu:gloo,cuda:nccl" if has_gpu else "gloo", timeout_s=int(WAIT.total_seconds())
            ),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=has_gpu, resources_per_worker=each),
            run_config=RunConfig(
                storage_path=str(unused),
                # The engine starts them again: it also knows which step to send again.
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            _end(_how(error, count))
    talking.join()


def _talk(questions: Queue, answers: Queue, pipe: BinaryIO, home: Path) -> None:
    """Pass on each answer, once what was written is kept, and the question that follows it."""
    asked: Step | None = None
    while True:
        answer, written = answers.get()
        if written is not None:
            keep(ray.get(written), home, asked)
        _write(pipe, LENGTH.pack(len(answer)) + answer)
        body = read_frame(sys.stdin.buffer)
        questions.put(body)
        if body is None:
            return
        question = QUESTIONS.validate_json(body)
        assert isinstance(question, Step)
        asked = question


def _or_end(work: Callable[[], None]) -> None:
    """Do some work of a thread; what it raises ends the process, and so the ranks."""
    try:
        work()
    except BaseException:
        _log.exception("the ranks cannot be talked to")
        _end("the launcher of the trainers has failed, so they were ended, too")


def _how(error: TrainingFailedError, count: int) -> str:
    """Return which rank ended first and how, for the log's last line."""
    if not isinstance(error, WorkerGroupError):
        return f"the trainers could not be run on the Ray cluster: {_line(error)}"
    failures = {rank: getattr(found, "health_check_failure", found) for rank, found in error.worker_failures.items()}
    # One that raised an error has often only lost the connection to one that was killed.
    rank = min(failures, key=lambda rank: (not isinstance(failures[rank], RayActorError), rank))
    said, _, _ = _line(failures[rank]).partition(" Some common causes")
    return f"trainer {rank + 1} of {count} ended: {said}; so the others were ended, too"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _end(message: str) -> NoReturn:
    """End this process at once; its connection to Ray closes, by which Ray ends its job."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(1)


def _write(pipe: BinaryIO, content: bytes) -> None:
    pipe.write(content)
    pipe.flush()


if __name__ == "__main__":
    main()
