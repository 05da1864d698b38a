"""What each rank of a trainer does on a node of a Ray cluster, in a worker of Ray Train."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import psutil
import ray
import torch
from ray.train import get_context
from ray.train.torch import TorchConfig, get_device
from ray.util.queue import Queue

from woodshed.engine.client.scratch import scratch_folder
from woodshed.engine.trainer.ranks import Ranks
from woodshed.engine.trainer.serve import serve
from woodshed.engine.trainer.travel import Away, Opening, check_base
from woodshed.engine.trainer.worker import log_to_stderr
from woodshed.engine.trainer.worker_protocol import Answer, Refused
from woodshed.errors import TrainError


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What the launcher gives to each rank."""

    opened: Any
    """Reference to the `Opening` in Ray's object store."""
    questions: Queue
    """JSON of the steps to take, then None."""
    answers: Queue
    """JSON of each answer, with a reference to what was written, or None."""
    threads: int | None
    """How many threads the ranks on one machine share; None for as many as it has cores."""


def train(settings: dict[str, Job]) -> None:
    """Join the ranks and answer the engine's questions until there are none."""
    log_to_stderr()
    job, ranks = settings["job"], ranks_of_ray()
    cores = job.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, cores // ranks.local_count))
    opened: Opening = ray.get(job.opened)
    try:
        ranks.each(lambda: check_base(opened, ray.util.get_node_ip_address()))
    except TrainError as error:
        if ranks.is_first:
            job.answers.put((Refused(message=str(error)).model_dump_json().encode(), None))
        return
    with ExitStack() as stack:
        if not ranks.is_first:
            return serve(_asked_of_the_first, _answered_by_the_first, ranks)
        away = Away(stack.enter_context(scratch_folder("woodshed-trainer-")), opened)
        bodies = chain([away.start.model_dump_json().encode()], iter(job.questions.get, None))

        def send(answer: Answer) -> None:
            written = away.written()
            job.answers.put((away.at_home(answer), None if written is None else ray.put(written)))

        serve(lambda: next(bodies, None), send, ranks)


class InterfaceConfig(TorchConfig):
    """Torch's process group, on the network interface by which Ray reaches the node.

    Gloo would take the address that the machine's name resolves to, which is often one that no other machine reaches.
    """

    @property
    def backend_cls(self) -> Any:
        """Return the class that joins the ranks."""
        return _Backend


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_use_interface)
        super().on_start(worker_group, backend_config)


def _use_interface() -> None:
    address = ray.util.get_node_ip_address()
    for name, found in psutil.net_if_addrs().items():
        if any(one.address == address for one in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def ranks_of_ray() -> Ranks:
    """Return this worker's place, and use the GPU that Ray has given it, whose number need not be that of the rank."""
    context, device = get_context(), get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Ranks(
        rank=context.get_world_rank(),
        count=context.get_world_size(),
        local_rank=context.get_local_rank() if device.index is None else device.index,
        local_count=context.get_local_world_size(),
    )


def _asked_of_the_first() -> bytes | None:
    raise AssertionError("only the first rank reads questions")


def _answered_by_the_first(_: Answer) -> None:
    raise AssertionError("only the first rank answers")
