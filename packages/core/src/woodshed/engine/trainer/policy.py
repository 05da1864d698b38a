"""A policy in memory: base model, LoRA and optimizer, loaded from and saved to a checkpoint."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor

from woodshed.engine.trainer.backend import choose_loader
from woodshed.engine.trainer.loader import load_with_lora
from woodshed.engine.trainer.precision import faster_dtype
from woodshed.engine.trainer.ranks import ALONE, Ranks, rank_device
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, OptimizerSettings


class LoraPolicy:
    """A frozen base model with a LoRA that is trained by AdamW."""

    def __init__(
        self, model_path: str, settings: OpenPolicy, ranks: Ranks = ALONE, *, shard_base: bool = False
    ) -> None:
        """Load the base model and add a LoRA that changes nothing yet, because its B matrices are zero.

        Args:
            model_path: Folder or hub name of the base model.
            settings: LoRA, optimizer, loss and seed.
            ranks: Those that train this policy together; each holds all of it.
            shard_base: Whether each rank holds only its share of the base model.

        Raises:
            TrainError: The model or its LoRA cannot be loaded, or there are fewer GPUs than ranks.
        """
        self.settings = settings
        self.ranks = ranks
        self.device = rank_device(ranks)
        torch.manual_seed(settings.seed)
        # Measured, so each rank could come to another result.
        dtype = ranks.from_first(lambda: faster_dtype(self.device.type))
        self.is_sharded = shard_base and ranks.count > 1
        self.model = ranks.each(lambda: self._loaded(model_path, dtype))
        # Evaluation mode: dropout in the trainer would make its log-probabilities differ from the engine's.
        self.model.eval()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        # One kernel for all parameters; on a CPU torch's choice.
        self._fused = True if self.device.type == "cuda" else None
        optimizer = settings.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
            fused=self._fused,
        )

    def _loaded(self, model_path: str, dtype: torch.dtype) -> Any:
        if not self.is_sharded:
            return load_with_lora(model_path, self.settings, self.device, dtype)
        if choose_loader(self.settings, cuda=self.device.type == "cuda") == "unsloth":
            raise TrainError("shard_base=True splits a model that transformers loaded, not Unsloth; set trainer='peft'")
        # FSDP takes seconds to import, and a policy in one piece does not need it.
        from woodshed.engine.trainer.sharding import split_base

        whole = load_with_lora(model_path, self.settings, torch.device("cpu"), dtype)
        return split_base(whole, self.ranks, self.device)

    def update(self, version: int) -> dict[str, float]:
        """Apply the accumulated gradient as the step after `version` optimizer steps, and return metrics.

        Raises:
            TrainError: The gradient is not finite; weights and optimizer are as before.
        """
        max_norm = self.settings.optimizer.max_grad_norm
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # Ranks with other numbers of threads add up in another order; one clip by one number keeps them identical.
        norm = self.ranks.from_first(lambda: torch.nn.utils.get_total_norm(gradients).cpu()).to(self.device)
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
        torch.save(self._state(), folder / "state.pt")

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
        self._take_state(torch.load(folder / "state.pt", map_location=self.device, weights_only=True))

    def copy_first(self) -> None:
        """Take over the first rank's LoRA, optimizer and random state, whose checkpoint only it can read."""
        if self.ranks.count == 1:
            return
        saved = io.BytesIO(self.ranks.from_first(self._saved))
        if self.ranks.is_first:
            return
        state = torch.load(saved, map_location=self.device, weights_only=True)
        for parameter, kept in zip(self.parameters, state.pop("lora"), strict=True):
            parameter.data.copy_(kept)
        self._take_state(state)

    def _state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "random": _random_state()}

    def _saved(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({**self._state(), "lora": [p.detach() for p in self.parameters]}, buffer)
        return buffer.getvalue()

    def _take_state(self, state: dict[str, Any]) -> None:
        for group in state["optimizer"]["param_groups"]:  # the current settings and device, not those saved
            group.update(
                betas=self.settings.optimizer.betas,
                weight_decay=self.settings.optimizer.weight_decay,
                fused=self._fused,
            )
        self.optimizer.load_state_dict(state["optimizer"])
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
        # The checkpoint may be of a machine with more GPUs.
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"][: torch.cuda.device_count()]])
