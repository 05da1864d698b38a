"""How a model's layers and head are computed on this machine: what runs and is exact enough is timed, the fastest used.

What lies between a layer's matrix products (rotation, gate) is one operator after the other (`plain`), or compiled by
torch into one kernel each (`compile`). The head holds the logits of some positions at a time; how many is a matter of
speed alone. On a CPU nothing is compiled unless it is asked for: a compiler costs minutes there, and gains little.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.decoder import head_weight
from woodshed.engine.trainer.attention.kernels import PLAIN, ElementWise, compiled, gated_silu, rotary
from woodshed.engine.trainer.forward import ALONG_A_TREE, ForwardMode, Kernels
from woodshed.engine.trainer.forward_mode import CANNOT_RUN, first_line
from woodshed.engine.trainer.kernel_race import Heads
from woodshed.engine.trainer.memory import available_bytes
from woodshed.errors import TrainError
from woodshed.loss.head import chunk_rows, head_bytes, token_logprobs
from woodshed.types import KernelKind

_log = logging.getLogger("woodshed.trainer")

_MEASURED = ("cuda",)
"""Devices on which `auto` compiles, and the head's chunks are timed."""
_ROUNDS = 3
_LENGTHS, _RACED = (250, 131), 4096
"""Positions with which it is tried whether compiled kernels are right, and with which they are timed."""
_FACTOR, _ROUNDING = 2.0, {torch.float32: 1e-5}
"""How many times as far from fp32 as plain operators' rounding another may be, and what it may be in any case, as a
share of the result."""
_CHUNKS = (2**25, 2**26, 2**27, 2**28)
"""Logits that the head may hold at a time on a GPU: 128 MiB to 1 GiB in fp32."""
_NEARLY, _HEAD_SHARE, _PAIRS = 1.03, 1 / 16, 8192
"""A smaller chunk is taken if it is nearly as fast; what of the free memory it may take; most predicting positions with
which it is timed."""
_NOT_COMPILED = (*CANNOT_RUN, OSError, subprocess.SubprocessError)
"""What a compiler raises where it, or a compiler that it calls, is missing or fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelChoice:
    """What is used, and a warning where something faster had to be left."""

    kernels: Kernels
    warning: str | None = None


def choose_kernels(asked: KernelKind, model: Any, mode: ForwardMode) -> KernelChoice:
    """Return how the layers and the head of a model are computed; it matters to rows along a tree only.

    Args:
        asked: `auto` compiles on a GPU, where that is right and faster.
        model: A PEFT model around a causal language model.
        mode: How rows go through it.

    Raises:
        TrainError: `compile` is asked for, and is not possible here.
    """
    if mode not in ALONG_A_TREE:
        return KernelChoice(kernels=Kernels())
    device = head_weight(model).device
    chunk = _faster_chunk(head_weight(model), device) if device.type in _MEASURED else None
    plain = Kernels(layer="plain", head_logits=chunk)
    if asked == "plain" or (asked == "auto" and device.type not in _MEASURED):
        return KernelChoice(kernels=plain)
    config = model.config
    width = getattr(config, "intermediate_size", None) or config.hidden_size
    shapes = _Shapes(heads=Heads.of(config), width=width, dtype=model.dtype)
    if (reason := _why_not(compiled(), shapes, device)) is not None:
        if asked == "compile":
            raise TrainError(
                f"kernels='compile' is not possible here: {reason}; use kernels='auto', which takes plain ones then"
            )
        return KernelChoice(
            kernels=plain,
            warning=f"the trainer's kernels are 'plain', not 'compile' ({reason}); rotation and gate of each layer "
            "take several kernels instead of one",
        )
    if asked == "auto" and not _is_faster(shapes, device):
        return KernelChoice(kernels=plain)
    return KernelChoice(kernels=Kernels(layer="compile", head_logits=chunk))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shapes:
    heads: Heads
    width: int
    """Features of the MLP: F."""
    dtype: torch.dtype


def _why_not(by: ElementWise, shapes: _Shapes, device: torch.device) -> str | None:
    """Return why kernels cannot be used, or None: each is compared with plain operators in fp32, forward and backward.

    Two lengths, because a compiler might make kernels for the first one only.
    """
    for length in _LENGTHS:
        try:
            found = _run(by, shapes, length, device, shapes.dtype)
        except _NOT_COMPILED as error:
            # torch's compiler wraps what happened in an error that says only where.
            return first_line(getattr(error, "inner_exception", None) or error)
        plain = _run(PLAIN, shapes, length, device, shapes.dtype)
        exact = _run(PLAIN, shapes, length, device, torch.float32)
        for name, ours, usual, right in zip(_NAMES, found, plain, exact, strict=True):
            off, allowed = _distance(ours, right), _FACTOR * _distance(usual, right) + _ROUNDING.get(shapes.dtype, 1e-4)
            if not off <= allowed:
                return f"its {name} is off by {off:.2g} of its size, {allowed:.2g} is allowed"
    return None


_NAMES = ("rotation", "gradient of the rotation", "gate", "gradient of the gate", "gradient of the gated values")


def _run(by: ElementWise, shapes: _Shapes, length: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return rotation and gate of random numbers, and their gradients; of queries and of keys."""
    heads = shapes.heads
    # The numbers are those of the shapes' precision, whatever they are computed in.
    query, key, gate, up, angle = _random(
        [
            (length, heads.queries, heads.size), (length, heads.keys, heads.size), (length, shapes.width),
            (length, shapes.width), (length, heads.size),
        ],
        shapes.dtype, device,
    )  # fmt: skip
    query, key, gate, up = (x.to(dtype).requires_grad_() for x in (query, key, gate, up))
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    with torch.enable_grad():
        turned = [rotary(x, cos, sin, by=by) for x in (query, key)]
        gated = gated_silu(gate, up, by=by)
        back = torch.autograd.grad((*turned, gated), (query, key, gate, up), [x.detach() for x in (*turned, gated)])
    return [
        torch.cat([x.flatten() for x in turned]), torch.cat([x.flatten() for x in back[:2]]), gated, back[2], back[3]
    ]  # fmt: skip


def _random(sizes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=draw).to(device, dtype) for size in sizes]


def _distance(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().float() - exact.detach()).norm() / exact.detach().norm())


def _is_faster(shapes: _Shapes, device: torch.device) -> bool:
    """Return whether compiled kernels take less time than plain operators, and log both times."""
    seconds = {
        by.name: _best(partial(_run, by, shapes, _RACED, device, shapes.dtype), device) for by in (PLAIN, compiled())
    }
    faster = min(seconds, key=lambda name: seconds[name])
    times = ", ".join(f"{name!r} takes {1e3 * took:.2f} ms" for name, took in seconds.items())
    _log.info("rotation and gate of a layer of %d positions: %s; %r is used", _RACED, times, faster)
    return faster == "compile"


def _faster_chunk(weight_VD: Tensor, device: torch.device) -> int | None:
    """Return how many logits the head should hold at a time, and log the times; None if every choice is the same."""
    vocabulary, hidden = weight_VD.shape
    room = _HEAD_SHARE * available_bytes(device)
    kinds = {
        chunk: chunk_rows(vocabulary, device.type, chunk)
        for chunk in _CHUNKS
        if head_bytes(_PAIRS, vocabulary, weight_VD.dtype, device.type, chunk_logits=chunk) <= room
    }
    if len({min(_PAIRS, rows) for rows in kinds.values()}) < 2:
        return None
    pairs = min(_PAIRS, 2 * max(kinds.values()))
    (states_PD,) = _random([(pairs, hidden)], weight_VD.dtype, device)
    every_P = torch.arange(pairs, device=device)
    heat_P = torch.ones(pairs, device=device)

    def run(chunk: int) -> Tensor:
        given = states_PD.detach().requires_grad_()
        with torch.enable_grad():
            logprobs_P, _ = token_logprobs(given, weight_VD, heat_P, every_P, every_P % vocabulary, chunk_logits=chunk)
        (to_states_PD,) = torch.autograd.grad(logprobs_P.sum(), given)
        return to_states_PD

    seconds = {chunk: _best(partial(run, chunk), device) for chunk in kinds}
    # A smaller one leaves memory for longer packs.
    chosen = next(chunk for chunk in sorted(seconds) if seconds[chunk] <= _NEARLY * min(seconds.values()))
    times = ", ".join(f"{kinds[chunk]} take {1e3 * took:.2f} ms" for chunk, took in seconds.items())
    _log.info("head, logits of so many of %d positions at a time: %s; %d are used", pairs, times, kinds[chosen])
    return chosen


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some rounds after the first."""
    times = []
    for _ in range(1 + _ROUNDS):
        _synchronize(device)
        began = time.perf_counter()
        run()
        _synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
