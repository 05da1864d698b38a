"""Steps of woodshed's trainer, with the model loaded by PEFT or by Unsloth."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from cases import ALPHA, RANK, make_model
from ours import batch_of
from published import Published
from shapes import Attempt

from woodshed.engine.trainer import loader
from woodshed.engine.trainer import policy as policy_module
from woodshed.engine.trainer import step as step_module
from woodshed.engine.trainer.forward import kernels_of
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.types import KernelKind, LoraSettings, LossSettings, OpenPolicy


class _Given:
    """A model that is there already, in the place of one that is read from a folder."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def from_pretrained(self, *_: Any, **__: Any) -> Any:
        return self.model


# The log-probabilities are invented, so the drift from them means nothing.
SETTINGS = OpenPolicy(
    name="bench",
    lora=LoraSettings(rank=RANK, alpha=ALPHA),
    loss=LossSettings(preset="dapo", drift_warn=1e9, drift_stop=1e9),
    trainer="peft",
)


def runner_of(model: Any, kernels: KernelKind = "auto") -> StepRunner:
    """Return what takes steps on a model that is in memory, in the precision in which it is there."""
    loader.AutoModelForCausalLM = _Given(model)
    policy_module.faster_dtype = lambda kind: model.dtype
    return StepRunner(LoraPolicy("given", SETTINGS.model_copy(update={"kernels": kernels})))


def steps(
    shape: Published,
    attempts: list[Attempt],
    device: str,
    _checkpoint: bool,
    *,
    unsloth: bool,
    kernels: KernelKind = "auto",
    limit_gib: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Take a step for each figure that is asked for; it checkpoints by itself where memory is short.

    With `limit_gib` a step plans as if the card had so much for model, LoRA and step together.
    """
    if limit_gib is not None:
        step_module.available_bytes = lambda at: (
            limit_gib * 2**30 - (torch.cuda.memory_allocated(at) if at.type == "cuda" else 0)
        )
    if unsloth:
        from by_trl import tokenizer

        model = make_model(shape, device, torch.bfloat16)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tokenizer(shape.vocabulary).save_pretrained(folder)
            del model
            torch.cuda.empty_cache()
            policy_module.faster_dtype = lambda kind: torch.bfloat16  # type: ignore[assignment]
            runner = StepRunner(LoraPolicy(folder, SETTINGS.model_copy(update={"trainer": "unsloth"})))
    else:
        runner = runner_of(make_model(shape, device, torch.bfloat16), kernels)
    batch = batch_of(attempts, len(attempts))
    while True:
        metrics = runner.take(batch, 0)
        used = kernels_of(runner.policy.model)
        chunk = f", head {used.head_logits >> 20} Mi logits" if used.head_logits else ""
        note = f"mode {runner.mode}, kernels {used.layer}{chunk}" + (
            ", checkpointed" if metrics["checkpointed"] else ""
        )
        yield {
            "note": note, "rows": runner.mode == "rows", "predicted_mb": metrics["peak_step_predicted_mb"],
            "taken_mb": metrics["peak_step_mb"],
        }  # fmt: skip
