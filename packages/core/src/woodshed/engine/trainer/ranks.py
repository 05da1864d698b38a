"""The ranks that train one policy together, and what they exchange; a single one exchanges nothing.

Each rank holds the whole policy and the same optimizer. It takes its share of a batch, and only the gradient of the
LoRA, a few numbers and the questions of the engine go from one to another. torch's `DistributedDataParallel` is not
used: it acts on a module's own forward pass, averages where the loss has counted the whole batch already, and needs the
same number of passes on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from woodshed.engine.trainer.worker_protocol import MEETING
from woodshed.errors import TrainError

Result = TypeVar("Result")

WAIT = timedelta(days=20)
"""A rank waits for the next step as long as that takes; one that has died ends the others (`launch`). Gloo keeps this
in milliseconds, in 32 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process's place among those that train a policy; all of them make the same calls in the same order."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    """Number of this process on its machine, which is also that of its GPU."""
    local_count: int = 1
    """How many of the processes are on this machine, and share its cores and memory."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that answers the engine and writes the checkpoints."""
        return self.rank == 0

    def gather(self, work: Callable[[], Result]) -> list[Result]:
        """Do this rank's part of some work, and return the result of each rank, in order of rank.

        Raises:
            TrainError: The work of a rank raised it; then each rank raises it.
        """
        if self.count == 1:
            return [work()]
        outcomes: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(outcomes, _outcome(work))
        return [_result(outcome) for outcome in outcomes]

    def each(self, work: Callable[[], Result]) -> Result:
        """Do this rank's part of some work, and return its result once all ranks have done theirs.

        Raises:
            TrainError: The work of a rank raised it; then each rank raises it.
        """
        kept: list[Result] = []
        self.gather(lambda: kept.append(work()))
        return kept[0]

    def from_first(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns on the first rank; the others do not call it.

        Raises:
            TrainError: The first rank's work raised it; then each rank raises it.
        """
        if self.count == 1:
            return work()
        box: list[Any] = [_outcome(work) if self.is_first else None]
        torch.distributed.broadcast_object_list(box, src=0)
        found: Result = _result(box[0])
        return found

    def sum(self, values: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""
        if self.count > 1:
            torch.distributed.all_reduce(values)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each parameter's gradient by its sum over all ranks, bit-identical on each of them.

        A parameter without a gradient on every rank keeps none, so that the optimizer leaves it alone.
        """
        if self.count == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        counts = gradients[0].new_tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([counts, *(gradient.flatten() for gradient in gradients)])
        torch.distributed.all_reduce(flat)
        has_gradient = flat[: len(parameters)].tolist()
        summed = flat[len(parameters) :].split([p.numel() for p in parameters])
        for parameter, total, has in zip(parameters, summed, has_gradient, strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype) if has else None


ALONE = Ranks()
"""One process that trains by itself, without torch.distributed."""


@contextmanager
def joined(
    file: str, *, rank: int, count: int, local_rank: int | None = None, local_count: int | None = None
) -> Iterator[Ranks]:
    """Meet the other ranks, yield this one's place, and part from them; takes its share of the cores, or its GPU.

    Args:
        file: Path of a file through which they find each other, so that no port listens for strangers; it does not
            exist before.
        rank: Number of this process among all, from 0.
        count: How many there are.
        local_rank: Number of this process on its machine; `rank` where all are on one.
        local_count: How many are on this machine; all by default.
    """
    ranks = Ranks(
        rank=rank,
        count=count,
        local_rank=rank if local_rank is None else local_rank,
        local_count=count if local_count is None else local_count,
    )
    torch.set_num_threads(max(1, torch.get_num_threads() // ranks.local_count))
    if torch.cuda.is_available() and ranks.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(ranks.local_rank)
    torch.distributed.init_process_group(
        backend(), init_method=f"file://{file}", rank=rank, world_size=count, timeout=WAIT
    )
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()


def launched_ranks(environment: Mapping[str, str]) -> AbstractContextManager[Ranks]:
    """Join the ranks that `launch` started, by the environment variables that it and torchrun's agent set."""
    return joined(environment[MEETING], rank=int(environment["RANK"]), count=int(environment["WORLD_SIZE"]))


def backend() -> str:
    """Return torch's name of what carries tensors between ranks: Gloo from memory, NCCL between GPUs."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def rank_device(ranks: Ranks) -> torch.device:
    """Return the device that a rank trains on.

    Raises:
        TrainError: There are GPUs, and fewer than ranks on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.count == 1:
        return torch.device("cuda")
    if ranks.local_count > (found := torch.cuda.device_count()):
        raise TrainError(
            f"trainers={ranks.local_count} needs as many GPUs on the engine's machine, and torch finds {found}; lower "
            "trainers, or look at CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda", ranks.local_rank)


def _outcome(work: Callable[[], Any]) -> Any:
    """Return the result, or the error that all ranks are to raise; any other error ends this process and so all."""
    try:
        return work()
    except TrainError as error:
        return error


def _result(outcome: Any) -> Any:
    if isinstance(outcome, TrainError):
        raise outcome
    return outcome
