"""The policy in memory: base model, LoRA, optimizer; loaded from and saved to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from woodshed.engine.trainer.loader import load_with_lora
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, OptimizerSettings


class LoraPolicy:
    """A frozen base model with a LoRA that is trained by AdamW."""

    def __init__(self, model_path: str, settings: OpenPolicy) -> None:
        """Load the base model and attach a LoRA that starts as the base model itself (its B matrices are zero)."""
        self.settings = settings
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.model = load_with_lora(model_path, settings, self.device)
        # Evaluation mode: dropout in the trainer would make its log-probabilities differ from the engine's.
        self.model.eval()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = settings.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )

    def update(self, version: int) -> dict[str, float]:
        """Apply the gradients that were summed up, as the step after `version` optimizer steps; return figures.

        Raises TrainError, with weights and optimizer as before, where the gradient is not finite.
        """
        limit = self.settings.optimizer.max_grad_norm
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not torch.isfinite(norm):
            raise TrainError(f"the gradient's norm is {norm.item()}; no step was taken and the weights are as before")
        torch.nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
        rate = learning_rate(version, self.settings.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return {"grad_norm": norm.item(), "learning_rate": rate}

    def save(self, folder: Path) -> None:
        """Write adapter, optimizer and random state into an empty folder."""
        # Without `save_embedding_layers=False` PEFT asks the model hub whether the vocabulary was resized.
        self.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
        state = {"optimizer": self.optimizer.state_dict(), "random": _random_state()}
        torch.save(state, folder / "state.pt")

    def take_adapter(self, adapter: dict[str, Tensor], folder: Path) -> None:
        """Take over the tensors of the LoRA in a folder; raises TrainError where they do not fit."""
        _check_adapter(adapter, get_peft_model_state_dict(self.model), folder)
        set_peft_model_state_dict(self.model, adapter)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
        self.take_adapter(adapter, folder)
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # what is asked for now, not what it was when saved
            group.update(betas=self.settings.optimizer.betas, weight_decay=self.settings.optimizer.weight_decay)
        _set_random_state(state["random"])


def learning_rate(version: int, settings: OptimizerSettings) -> float:
    """Return the rate of the step after `version` steps: `warmup_steps` rising ones, then the constant rate."""
    return settings.learning_rate * min(1.0, (version + 1) / (settings.warmup_steps + 1))


def _check_adapter(found: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    if shapes != {name: tuple(t.shape) for name, t in expected.items()}:
        raise TrainError(
            f"the adapter in {str(folder)!r} does not fit the model and the LoRA settings asked for; "
            "use the settings it was trained with, or another policy name"
        )


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
