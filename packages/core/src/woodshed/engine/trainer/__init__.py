"""The trainer: calls that the engine recorded → one optimizer step on a LoRA → a checkpoint that vLLM loads.

`Trainer` runs in the engine's process and imports no torch; the model is in a process of its own (`worker`).
"""

from woodshed.engine.trainer.process import Trainer

__all__ = ["Trainer"]
