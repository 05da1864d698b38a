"""A policy that is on the GPU only while it trains, where vLLM takes turns with it (`gpu_sharing="sleep"`).

The base model's weights are frozen, so one copy in main memory is made once and never written back. LoRA and optimizer
are small and stay.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_log = logging.getLogger("woodshed.trainer")


class GpuTurn:
    """Moves a model's frozen weights to its device for a turn, and away from it afterwards."""

    def __init__(self, model: nn.Module, device: torch.device, *, leaves: bool) -> None:
        """Take the model off its device, if it `leaves` between its turns.

        Quantised weights stay: they are small, and their library keeps more about them than the tensor.
        """
        self._device = device
        self._frozen = [p for p in model.parameters() if leaves and not p.requires_grad and p.is_floating_point()]
        self._kept = [_in_main_memory(p.data, device) for p in self._frozen]
        self._leave()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have the whole model on its device until the block ends."""
        for parameter, kept in zip(self._frozen, self._kept, strict=True):
            parameter.data = kept.to(self._device, non_blocking=True)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        for parameter, kept in zip(self._frozen, self._kept, strict=True):
            parameter.data = kept
        if self._frozen and self._device.type == "cuda":
            gc.collect()  # a cycle would hold on to what a step computed
            torch.cuda.empty_cache()


def _in_main_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy in main memory; page-locked, from where it is copied several times as fast, if there is room."""
    kept = tensor.detach().to("cpu", copy=True)
    if device.type != "cuda":
        return kept
    try:
        return kept.pin_memory()
    except RuntimeError as error:
        _log.warning("a weight of %d MiB cannot be page-locked (%s); turns take longer", kept.nbytes >> 20, error)
        return kept
