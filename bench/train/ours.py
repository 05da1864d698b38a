"""One optimizer step of woodshed's trainer, as the trainer's own process runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from shapes import ALPHA, CASES, DTYPES, RANK, SHAPES, Attempt, advantages, logprob, make_model
from torch.utils.flop_counter import FlopCounterMode

from woodshed.engine.trainer import policy as policy_module
from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.memory import keep_freed_memory
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.types import (
    Completion,
    LoraSettings,
    LossSettings,
    Message,
    OpenPolicy,
    SealedSession,
    StepRequest,
    TokenCall,
    WeightedRollout,
)


def prepare(
    precision: str, case: str, hidden: int, rollouts: int
) -> tuple[Callable[[], dict[str, float]], Callable[[], float]]:
    """Return a function that takes a step, and one that counts a step's floating-point operations.

    The precision is fixed here; the trainer would otherwise choose it by a measurement.
    """
    policy_module.faster_dtype = lambda kind: getattr(torch, DTYPES[precision])  # type: ignore[assignment]
    keep_freed_memory()
    shape = SHAPES[hidden]
    with tempfile.TemporaryDirectory() as folder:
        make_model(shape, precision).save_pretrained(folder)  # type: ignore[attr-defined]
        # The log-probabilities are invented, so the drift from them means nothing.
        settings = OpenPolicy(
            name="bench", lora=LoraSettings(rank=RANK, alpha=ALPHA), loss=LossSettings(preset="dapo", drift_stop=1e9)
        )
        runner = StepRunner(LoraPolicy(folder, settings))
    batch = batch_of(CASES[case](rollouts, shape.vocabulary), rollouts)
    return lambda: runner.take(batch, 0), lambda: _operations(runner, batch, shape.heads * 64)


def batch_of(attempts: list[Attempt], rollouts: int) -> TrainingBatch:
    """Return the batch of a step on these attempts."""
    sessions = {
        str(k): SealedSession(
            rollout_id=str(k),
            calls=tuple(c for n, a in enumerate(attempts) if a.rollout == k for c in _calls(f"{k}/{n}", a)),
        )
        for k in range(rollouts)
    }
    worth = advantages(rollouts)
    weighted = tuple(WeightedRollout(rollout_id=str(k), advantage=worth[k]) for k in range(rollouts))
    return build_batch(StepRequest(step_id="s", rollouts=weighted), sessions)


def _calls(name: str, attempt: Attempt) -> list[TokenCall]:
    calls, history, sampled_tokens = [], attempt.prompt, 0
    for number, (sampled, piece) in enumerate(attempt.pieces):
        if sampled:
            answer = Completion(
                index=0,
                message=Message(role="assistant"),
                token_ids=piece,
                logprobs=tuple(logprob(sampled_tokens + k) for k in range(len(piece))),
                weight_versions=(0,) * len(piece),
            )
            calls.append(
                TokenCall(
                    call_id=f"{name}/{number}", started_s=float(number), latency_s=0.1, messages=(),
                    prompt_ids=history, completions=(answer,),
                )
            )  # fmt: skip
            sampled_tokens += len(piece)
        history = history + piece
    return calls


def _operations(runner: StepRunner, batch: TrainingBatch, width: int) -> float:
    """Return a step's floating-point operations in matrix products and attention; masked pairs do not count."""
    parts = runner.micro_batches(batch)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: _product}) as counter:
        runner.accumulate(batch, parts)
    runner.policy.optimizer.zero_grad(set_to_none=True)
    layers = runner.policy.model.config.num_hidden_layers
    total = float(sum(n for name, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(name)))
    for part in parts:
        # A query attends to its own path: two products in the forward pass and five in the backward pass.
        paths_N = part.position_ids_BN[0] + 1
        pairs = (layers - 1) * paths_N.sum() + paths_N[part.columns].sum()
        total += (2 + 5) * 2 * width * float(pairs)
    return total


def _product(x_ND: torch.Size, weight_FD: torch.Size, *_: object, **__: object) -> int:
    """Return the operations of oneDNN's product, which torch's counter does not know."""
    return 2 * x_ND[0] * x_ND[1] * weight_FD[0]


def gemm_rate(precision: str) -> float:
    """Return this machine's floating-point operations per CPU second in a large product, best of eight rounds."""
    import time

    a, b = torch.randn(2, 1024, 1024).to(getattr(torch, DTYPES[precision]))
    best = float("inf")
    for _ in range(8):
        began = time.process_time()
        for _ in range(4):
            torch.mm(a, b)
        best = min(best, time.process_time() - began)
    return 4 * 2 * 1024**3 / best
