"""LoRA on a CPU as plain matrix products; runs inside vLLM's own process and nowhere else.

vLLM's CPU path copies the adapter's weights once per *token* before it multiplies, which takes half of a small
model's time. The tokens of a call are adjacent, and nearly always the whole batch uses one adapter. So one product per
run of tokens with the same adapter gives the same numbers without the copies. Tokens without an adapter are skipped; in
vLLM's own path their index of -1 selects the last adapter's weights when a batch mixes both.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from woodshed.engine.vllm.patches.replace import replace_function


class RunwiseLora(PunicaWrapperCPU):
    """vLLM's wrapper, with one matrix product for each run of tokens that share an adapter."""

    _runs: tuple[tuple[int, int, int], ...] = ()
    """For each run: first token, token after the last, and the adapter's slot."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Find the runs of the next batch."""
        super().update_metadata(*args, **kwargs)
        slots, lengths = torch.unique_consecutive(self.token_lora_indices, return_counts=True)
        ends = lengths.cumsum(0).tolist()
        starts = (0, *ends[:-1])
        runs = zip(starts, ends, slots.tolist(), strict=True)
        self._runs = tuple(run for run in runs if run[2] >= 0)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add `scale · x Aᵀ Bᵀ` of each run's adapter to its rows of `y`, slice by slice."""
        rows_y, rows_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for start, end, slot in self._runs:
            run_x, column = rows_x[start:end], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                low = torch.mm(run_x, a[slot, 0].T)
                rows_y[start:end, column : column + width].addmm_(low, b[slot, 0, :width].T, alpha=scale)
                column += width


def install() -> None:
    """Make vLLM use `RunwiseLora`: a platform names its LoRA implementation in `get_punica_wrapper`."""
    name = f"{RunwiseLora.__module__}.{RunwiseLora.__qualname__}"
    replace_function(type(current_platform), "get_punica_wrapper", lambda _: lambda cls: name)
