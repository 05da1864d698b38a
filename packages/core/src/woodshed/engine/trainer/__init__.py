"""The trainer: calls the engine recorded → one optimizer step on a LoRA → a checkpoint that vLLM loads.

`Trainer` is the parent's side and imports no torch; the model lives in a process of its own (`child`).
"""

from woodshed.engine.trainer.process import Trainer

__all__ = ["Trainer"]
