"""A policy in memory: base model, LoRA and optimizer, loaded from and saved to a checkpoint."""

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
        """Load the base model and add a LoRA that changes nothing yet, because its B matrices are zero.

        Raises:
            TrainError: The model or its LoRA cannot be loaded.
        """
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
        """Apply the accumulated gradient as the step after `version` optimizer steps, and return metrics.

        Raises:
            TrainError: The gradient is not finite; weights and optimizer are as before.
        """
        max_norm = self.settings.optimizer.max_grad_norm
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not torch.isfinite(norm):
            raise TrainError(f"the gradient's norm is {norm.item()}; no step was taken and the weights are as before")
        torch.nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        rate = learning_rate(version, self.settings.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return {"grad_norm": norm.item(), "learning_rate": rate}

    def save(self, folder: Path) -> None:
        """Write the adapter, the optimizer and the random state into an empty folder."""
        # Without `save_embedding_layers=False` PEFT asks the model hub whether the vocabulary was resized.
        self.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
        state = {"optimizer": self.optimizer.state_dict(), "random": _random_state()}
        torch.save(state, folder / "state.pt")

    def take_adapter(self, adapter: dict[str, Tensor], folder: Path) -> None:
        """Use the tensors of a LoRA, which were read from `folder`.

        Raises:
            TrainError: They do not fit the model and its LoRA settings.
        """
        _check_adapter(adapter, get_peft_model_state_dict(self.model), folder)
        set_peft_model_state_dict(self.model, adapter)

    def load(self, folder: Path) -> None:
        """Load what `save` wrote."""
        adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
        self.take_adapter(adapter, folder)
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # the current settings, not those saved
            group.update(betas=self.settings.optimizer.betas, weight_decay=self.settings.optimizer.weight_decay)
        _set_random_state(state["random"])


def learning_rate(version: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of the step after `version` steps: it rises over `warmup_steps`, then is constant."""
    return settings.learning_rate * min(1.0, (version + 1) / (settings.warmup_steps + 1))


def _check_adapter(adapter: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    shapes = {name: tuple(t.shape) for name, t in adapter.items()}
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
