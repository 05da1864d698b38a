"""A half-precision model's own forward pass in fp32: what the rounding of other passes is measured against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


@contextmanager
def upcast(model: nn.Module) -> Iterator[None]:
    """Run every module of `model` with fp32 weights until the block ends.

    One module's weights at a time are held in fp32, so that a model which fills most of a GPU can be run, too. Weights
    that are not floating-point numbers (4 bits) are left to the module itself.
    """
    wide = [_Widened(module) for module in model.modules() if any(p.dtype in _HALF for p in _own(module).values())]
    try:
        yield
    finally:
        for module in wide:
            module.close()


class _Widened:
    """A module whose own weights are in fp32 while it runs."""

    def __init__(self, module: nn.Module) -> None:
        self._kept: dict[nn.Parameter, Tensor] = {}
        self._handles = (
            module.register_forward_pre_hook(self._widen),
            module.register_forward_hook(self._restore, always_call=True),
        )

    def _widen(self, module: nn.Module, _: Any) -> None:
        for parameter in _own(module).values():
            if parameter.dtype in _HALF:
                self._kept[parameter] = parameter.data
                parameter.data = parameter.data.float()

    def _restore(self, *_: Any) -> None:
        for parameter, data in self._kept.items():
            parameter.data = data
        self._kept.clear()

    def close(self) -> None:
        """Restore the weights and remove the hooks."""
        self._restore()
        for handle in self._handles:
            handle.remove()


def _own(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(recurse=False))
