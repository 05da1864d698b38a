"""Hidden states → log-probabilities of chosen tokens, without ever holding the logits of more than one chunk.

The head is frozen, so a token's log-probability depends on its hidden state alone, and its gradient is one row per
token: W[token] - Σ p W. The forward pass makes that row while the chunk's softmax is at hand, and the backward pass
only scales it: two matrix products in all, where keeping (or making again) the logits takes three.

Shapes: H heads, i.e. distinct (position, temperature) pairs, D hidden, V words, M tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from woodshed.loss.products import linear

_CHUNK_CELLS = {"cpu": 2**22, "cuda": 2**27}
"""Logits held at once: 16 MiB in fp32 on a CPU, where more leaves the cache, and 512 MiB on a GPU."""


def token_logprobs(
    hidden_PD: Tensor,
    weight_VD: Tensor,
    temperature_P: Tensor,
    head_of_M: Tensor,
    token_M: Tensor,
    *,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return the log-probability of each token in fp32, and each head's entropy where it is asked for.

    Both carry a gradient to the hidden states and to nothing else.
    """
    found: tuple[Tensor, Tensor] = _Head.apply(hidden_PD, weight_VD, temperature_P, head_of_M, token_M, entropy)
    return found[0], found[1] if entropy else None


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PD: Tensor, weight_VD: Tensor, temperature_P: Tensor, head_of_M: Tensor, token_M: Tensor,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        backward = ctx.needs_input_grad[0]
        rows = max(1, _CHUNK_CELLS[hidden_PD.device.type] // len(weight_VD))
        heads = len(hidden_PD)
        picked_M = hidden_PD.new_empty(len(token_M), dtype=torch.float32)
        log_sum_P = hidden_PD.new_empty(heads, dtype=torch.float32)
        entropy_P = hidden_PD.new_zeros(heads if entropy else 0, dtype=torch.float32)
        mean_PD = torch.empty_like(hidden_PD) if backward else hidden_PD.new_empty(0)
        entropy_PD = torch.empty_like(hidden_PD) if backward and entropy else hidden_PD.new_empty(0)
        order_M = head_of_M.argsort(stable=True)
        bounds = torch.searchsorted(head_of_M[order_M], torch.arange(0, heads + rows, rows, device=head_of_M.device))
        ends = bounds.tolist()
        for number, start in enumerate(range(0, heads, rows)):
            part = slice(start, min(start + rows, heads))
            logits_PV = linear(hidden_PD[part], weight_VD).float()
            if not bool((temperature_P[part] == 1).all()):
                logits_PV /= temperature_P[part, None]
            mine_M = order_M[ends[number] : ends[number + 1]]
            picked_M[mine_M] = logits_PV[head_of_M[mine_M] - start, token_M[mine_M]]
            top_P = logits_PV.amax(-1)
            if not backward and not entropy:
                log_sum_P[part] = logits_PV.logsumexp(-1)
                continue
            p_PV = torch.softmax(logits_PV, -1) if entropy else torch.softmax(logits_PV, -1, out=logits_PV)
            # The largest probability is 1 / Σ exp(logit - largest logit).
            log_sum_P[part] = top_P - p_PV.amax(-1).log()
            if backward:
                mean_PD[part] = linear(p_PV.to(weight_VD.dtype), weight_VD.t())
            if entropy:
                mean_logit_P = torch.linalg.vecdot(p_PV, logits_PV)
                entropy_P[part] = log_sum_P[part] - mean_logit_P
                if backward:  # ∇ entropy = -Σ p (logit - mean logit) W
                    uneven_PV = p_PV.mul_(logits_PV.sub_(mean_logit_P[:, None]))
                    entropy_PD[part] = linear(uneven_PV.neg_().to(weight_VD.dtype), weight_VD.t())
        if backward:
            ctx.save_for_backward(weight_VD, temperature_P, head_of_M, token_M, mean_PD, entropy_PD)
        return picked_M - log_sum_P[head_of_M], entropy_P

    @staticmethod
    def backward(ctx: Any, to_logprob_M: Tensor, to_entropy_P: Tensor) -> tuple[Tensor | None, ...]:
        weight_VD, temperature_P, head_of_M, token_M, mean_PD, entropy_PD = ctx.saved_tensors
        scale_M = (to_logprob_M / temperature_P[head_of_M]).to(weight_VD.dtype)
        total_P = torch.zeros(len(mean_PD), dtype=scale_M.dtype, device=scale_M.device).index_add(0, head_of_M, scale_M)
        gradient_PD = mean_PD * -total_P[:, None]
        gradient_PD.index_add_(0, head_of_M, weight_VD[token_M] * scale_M[:, None])
        if len(entropy_PD):
            gradient_PD += entropy_PD * (to_entropy_P / temperature_P).to(weight_VD.dtype)[:, None]
        return gradient_PD, None, None, None, None, None
