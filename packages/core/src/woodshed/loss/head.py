"""Hidden states → log-probabilities of chosen tokens, holding the logits of one chunk of positions at a time.

The output head is frozen, so a token's log-probability depends on one hidden state only, and its gradient with respect
to that state is one row: W[token] - Σ p W, where p is the softmax. The forward pass computes this row while the chunk's
softmax is in memory, and the backward pass only scales it. That takes two matrix products; storing or recomputing the
logits takes three. Liger Kernel's fused linear cross-entropy (arXiv:2410.10989) does the same for a loss.

Shapes: P distinct (position, temperature) pairs that predict a token, D hidden size, V vocabulary size, M tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from woodshed.loss.products import linear

_CHUNK_LOGITS = {"cpu": 2**22, "cuda": 2**27}
"""Logits per chunk, where nothing was measured: 16 MiB in fp32 on a CPU, where a larger chunk no longer fits the cache,
and 512 MiB on a GPU."""


def token_logprobs(
    hidden_PD: Tensor,
    weight_VD: Tensor,
    temperature_P: Tensor,
    pair_of_M: Tensor,
    token_M: Tensor,
    *,
    entropy: bool = False,
    chunk_logits: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the log-probabilities (M, fp32, nats) and, with `entropy`, the entropies (P, fp32, nats), else None.

    Both have a gradient to `hidden_PD` and to nothing else.

    Args:
        hidden_PD: Last hidden state of each pair's position.
        weight_VD: The frozen matrix of the output head.
        temperature_P: What each pair's logits are divided by.
        pair_of_M: Index of the pair that predicts each token.
        token_M: The tokens whose log-probability is returned.
        entropy: Whether to compute each pair's entropy too.
        chunk_logits: Most logits held at a time; None for the device's usual number.
    """
    outputs: tuple[Tensor, Tensor] = _ChunkedHead.apply(
        hidden_PD, weight_VD, temperature_P, pair_of_M, token_M, entropy, chunk_logits
    )
    logprobs_M, entropy_P = outputs
    return logprobs_M, entropy_P if entropy else None


def chunk_rows(vocabulary: int, device: str, chunk_logits: int | None = None) -> int:
    """Return how many pairs' logits are held at a time; the arguments are those of `head_bytes`."""
    return max(1, (chunk_logits or _CHUNK_LOGITS[device]) // vocabulary)


def head_bytes(
    pairs: int, vocabulary: int, dtype: torch.dtype, device: str, *, entropy: bool = False,
    chunk_logits: int | None = None,
) -> int:  # fmt: skip
    """Return the bytes that `token_logprobs` needs for its logits, while it runs.

    Args:
        pairs: P.
        vocabulary: V.
        dtype: That of the head's matrix; in half precision the chunk's logits are held in fp32 beside a copy in it.
        device: Type of the device, `cpu` or `cuda`.
        entropy: Whether the entropies are computed, too.
        chunk_logits: As for `token_logprobs`.
    """
    rows = min(pairs, chunk_rows(vocabulary, device, chunk_logits))
    return rows * vocabulary * (4 + (0 if dtype == torch.float32 else dtype.itemsize) + (4 if entropy else 0))


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, temperature_P: Tensor, pair_of_M: Tensor, token_M: Tensor,
        entropy: bool, chunk_logits: int | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with_gradient = ctx.needs_input_grad[0]
        chunk_size = chunk_rows(len(weight_VD), hidden_PD.device.type, chunk_logits)
        pairs = len(hidden_PD)
        picked_M = hidden_PD.new_empty(len(token_M), dtype=torch.float32)
        log_sum_P = hidden_PD.new_empty(pairs, dtype=torch.float32)
        entropy_P = hidden_PD.new_zeros(pairs if entropy else 0, dtype=torch.float32)
        mean_PD = torch.empty_like(hidden_PD) if with_gradient else hidden_PD.new_empty(0)
        entropy_PD = torch.empty_like(hidden_PD) if with_gradient and entropy else hidden_PD.new_empty(0)
        order_M = pair_of_M.argsort(stable=True)
        edges = torch.arange(0, pairs + chunk_size, chunk_size, device=pair_of_M.device)
        bounds = torch.searchsorted(pair_of_M[order_M], edges).tolist()
        for number, start in enumerate(range(0, pairs, chunk_size)):
            chunk = slice(start, min(start + chunk_size, pairs))
            logits_PV = linear(hidden_PD[chunk], weight_VD).float()
            if not bool((temperature_P[chunk] == 1).all()):
                logits_PV /= temperature_P[chunk, None]
            in_chunk_M = order_M[bounds[number] : bounds[number + 1]]
            picked_M[in_chunk_M] = logits_PV[pair_of_M[in_chunk_M] - start, token_M[in_chunk_M]]
            top_P = logits_PV.amax(-1)
            if not with_gradient and not entropy:
                log_sum_P[chunk] = logits_PV.logsumexp(-1)
                del logits_PV
                continue
            p_PV = torch.softmax(logits_PV, -1) if entropy else torch.softmax(logits_PV, -1, out=logits_PV)
            # The largest probability is 1 / Σ exp(logit - largest logit).
            log_sum_P[chunk] = top_P - p_PV.amax(-1).log()
            if with_gradient:
                mean_PD[chunk] = linear(p_PV.to(weight_VD.dtype), weight_VD.t())
            if entropy:
                mean_logit_P = torch.linalg.vecdot(p_PV, logits_PV)
                entropy_P[chunk] = log_sum_P[chunk] - mean_logit_P
                if with_gradient:  # ∇ entropy = -Σ p (logit - mean logit) W
                    p_PV.mul_(logits_PV.sub_(mean_logit_P[:, None])).neg_()
                    entropy_PD[chunk] = linear(p_PV.to(weight_VD.dtype), weight_VD.t())
            del logits_PV, p_PV  # or the next chunk's would be made beside them
        if with_gradient:
            ctx.save_for_backward(weight_VD, temperature_P, pair_of_M, token_M, mean_PD, entropy_PD)
        return picked_M - log_sum_P[pair_of_M], entropy_P

    @staticmethod
    def backward(ctx: Any, to_logprob_M: Tensor, to_entropy_P: Tensor) -> tuple[Tensor | None, ...]:
        weight_VD, temperature_P, pair_of_M, token_M, mean_PD, entropy_PD = ctx.saved_tensors
        scale_M = (to_logprob_M / temperature_P[pair_of_M]).to(weight_VD.dtype)
        total_P = torch.zeros(len(mean_PD), dtype=scale_M.dtype, device=scale_M.device).index_add(0, pair_of_M, scale_M)
        gradient_PD = mean_PD * -total_P[:, None]
        gradient_PD.index_add_(0, pair_of_M, weight_VD[token_M] * scale_M[:, None])
        if len(entropy_PD):
            gradient_PD += entropy_PD * (to_entropy_P / temperature_P).to(weight_VD.dtype)[:, None]
        return gradient_PD, None, None, None, None, None, None
