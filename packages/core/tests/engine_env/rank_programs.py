"""What the ranks of a test do, each in a process of its own; and the same by one process, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from tiny_trainer import LOSS, SESSIONS, group, numbered, request, session
from torch.distributed.tensor import DTensor

from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.forward import ForwardMode
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.ranks import ALONE, Ranks, joined
from woodshed.engine.trainer.step import StepRunner
from woodshed.engine.trainer.supervised import evaluation
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.loss.presets import PRESETS
from woodshed.types import LossSettings, OpenPolicy, OptimizerSettings, SealedSession

Found = dict[str, Any]


def _two_agents(name: str, *turns: list[int]) -> SealedSession:
    """Return a rollout of a planner and a helper, whose rows share nothing and so may go to two ranks."""
    planner, helper = (session(f"{name}/{k}", [k] * 20, [turn]) for k, turn in zip((9, 90), turns, strict=True))
    return SealedSession(rollout_id=name, calls=(*planner.calls, *helper.calls))


_UNEVEN = {
    **group("a", size=5, turns=3),
    **group("b", size=2, prompt=90, length=9),
    **group("c", size=1, prompt=3, turns=1),
    **{f"m{k}": _two_agents(f"m{k}", [30 + k, 31, 32], [40 + k, 41, 42, 43]) for k in range(3)},
    "w": session("w", [7, 8, 9], [[10, 11], [12, 13]], sampling={"temperature": 0.6}),
}
"""Trees of very different sizes, one of them of a single row."""
_BATCHES = {"uneven": (_UNEVEN, 10_000), "cut": (_UNEVEN, 40), "one row": (group("d", size=1, turns=1), 10_000)}
"""Name → the sessions of a batch and the positions of a micro-batch."""
_LOSSES: dict[str, LossSettings] = {
    **{name: LossSettings(preset=name, drift_stop=1e9) for name in PRESETS},  # type: ignore[arg-type]
    "kl and entropy": LossSettings(kl_coef=0.1, entropy_coef=0.01, drift_stop=1e9),
    "sequence": LossSettings(correction="sequence_truncate", drift_stop=1e9),
}


def run_ranks(count: int, program: Any, folder: Path, *values: Any) -> list[Any]:
    """Return what `program(ranks, *values)` returns on each of `count` ranks."""
    folder.mkdir()
    torch.multiprocessing.start_processes(
        _rank, args=(count, program, folder, values), nprocs=count, join=True, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, program: Any, folder: Path, values: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    with joined(str(folder / "meeting"), rank=rank, count=count) as ranks:
        torch.save(program(ranks, *values), folder / f"{rank}.pt")


def runner(model_path: str, ranks: Ranks, loss: LossSettings = LOSS, *, shard_base: bool = False) -> StepRunner:
    """Return a runner whose LoRA is not zero, so that every weight of it matters."""
    found = StepRunner(LoraPolicy(model_path, OpenPolicy(name="p", loss=loss), ranks, shard_base=shard_base))
    generator = torch.Generator().manual_seed(1)
    for parameter in found.policy.parameters:
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return found


def batch(sessions: Any) -> TrainingBatch:
    """Return a batch in which one rollout of four has no advantage."""
    return build_batch(request("s", {name: [1.0, -0.5, 0.0, 0.25][k % 4] for k, name in enumerate(sessions)}), sessions)


def gradients(ranks: Ranks, model_path: str, losses: Sequence[str] = tuple(_LOSSES), shard_base: bool = False) -> Found:
    """Return loss and batch → the gradient, the sums over the batch, and this rank's number of rows."""
    found = {}
    for loss in losses:
        of = runner(model_path, ranks, _LOSSES[loss], shard_base=shard_base)
        for name, (sessions, of.token_budget) in _BATCHES.items():
            of.policy.optimizer.zero_grad(set_to_none=True)
            parts = of.micro_batches(batch(sessions))
            sums = of.accumulate(batch(sessions), parts)
            found[f"{loss}/{name}"] = {
                "gradient": torch.cat([p.grad.flatten() for p in of.policy.parameters if p.grad is not None]),
                "stats": sums.stats,
                "loss": sums.loss,
                "drift": sums.drift,
                "log_ratios": {i: dict(calls) for i, calls in sums.log_ratios._found.items()},
                "parts": sum(len(part.token_M) > 0 for part in parts),
            }
    return found


def split(ranks: Ranks, model_path: str, mode: ForwardMode, checkpointed: bool) -> Found:
    """Return a gradient where each rank holds its share of the base, and which share of the layers' weights that is."""
    of = runner(model_path, ranks, _LOSSES["kl and entropy"], shard_base=True)
    of.mode, of.token_budget = mode, 40
    parts = of.micro_batches(batch(_UNEVEN))
    of.checkpointed = checkpointed
    sums = of.accumulate(batch(_UNEVEN), parts)
    frozen = [p for p in of.policy.model.base_model.model.model.layers.parameters() if not p.requires_grad]
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in frozen)
    return {
        "gradient": torch.cat([p.grad.flatten() for p in of.policy.parameters if p.grad is not None]),
        "loss": sums.loss,
        "share": held / sum(p.numel() for p in frozen),
    }


def evaluated(ranks: Ranks, model_path: str) -> dict[str, float]:
    """Return the metrics of an evaluation."""
    return evaluation(runner(model_path, ranks), batch(_UNEVEN), 0)


def refused(ranks: Ranks, model_path: str) -> tuple[str, str, bool]:
    """Return the errors of two steps that no rank may take, one of which only the last rank finds; and of its load."""
    of = runner(model_path, ranks)
    before = torch.cat([p.detach().flatten() for p in of.policy.parameters])
    bad = build_batch(request("s", {name: 1e300 if name == "a0" else 1.0 for name in _UNEVEN}), _UNEVEN)
    said = []
    for attempt in (lambda: of.take(bad, 0), lambda: runner("no/such/folder", ranks)):
        try:
            attempt()
        except TrainError as error:
            said.append(str(error))
    after = torch.cat([p.detach().flatten() for p in of.policy.parameters])
    return said[0], said[1], torch.equal(before, after)


def steps(
    ranks: Ranks,
    model_path: str,
    home: str,
    first: int,
    last: int,
    objective: str = "policy_gradient",
    shard_base: bool = False,
) -> Found:
    """Take the steps `first` to `last` of the run in `home`; return its weights, the optimizer's state and reports."""
    settings = OpenPolicy(name="p", optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=1), loss=LOSS)
    of = PolicyRun(Start(model_path=model_path, home=home, policy=settings, parent_pid=0, shard_base=shard_base), ranks)
    reports = []
    for number in range(first, last + 1):
        asked = numbered(number).model_copy(update={"objective": objective})
        reports.append(of.step(Step(request=asked, sessions=SESSIONS)))
    moments = [value for state in of.policy.optimizer.state.values() for value in state.values()]
    return {
        "weights": torch.cat([p.detach().flatten() for p in of.policy.parameters]),
        "optimizer": torch.cat([value.flatten().float() for value in moments]),
        "reports": reports,
        "state": of.state,
    }


def alone(program: Any, *values: Any) -> Any:
    """Return what `program` returns in one process."""
    return program(ALONE, *values)
