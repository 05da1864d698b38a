"""Steps of TRL's GRPOTrainer: the rollouts are given, so nothing is generated; no reference model."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import torch
from cases import ALPHA, RANK, make_model
from published import Published
from shapes import Attempt
from with_trl import tokenizer, train

__all__ = ["steps", "tokenizer"]


def steps(shape: Published, attempts: list[Attempt], device: str, checkpoint: bool) -> Iterator[dict[str, Any]]:
    """Take a step for each figure that is asked for."""
    asked: queue.Queue[bool] = queue.Queue()
    taken: queue.Queue[BaseException | None] = queue.Queue()

    def answer(_: dict[str, float]) -> bool:
        taken.put(None)
        return asked.get()

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(
                    make_model(shape, device, torch.bfloat16), attempts, len(attempts), shape.vocabulary, answer,
                    rank=RANK, alpha=ALPHA, output_dir=folder, use_cpu=device == "cpu", bf16=True,
                    gradient_checkpointing=checkpoint,
                )  # fmt: skip
        except BaseException as error:
            taken.put(error)

    asked_thread = threading.Thread(target=work, daemon=True)
    asked_thread.start()
    first = True
    while True:
        if not first:
            asked.put(True)
        first = False
        if (error := taken.get()) is not None:
            raise error
        yield {"note": "checkpointed" if checkpoint else ""}
