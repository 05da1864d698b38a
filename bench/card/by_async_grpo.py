"""Steps of TRL's AsyncGRPOTrainer: its packing along a prefix trie, its attention, its fused head and its loss.

The trainer itself wants a vLLM server and a queue of rollouts, which have nothing to do with a step. What stands here
in their place is the group; all that computes is TRL's. Its FlashAttention 3 kernel (Hopper only) is fetched from the
hub; where that fails, torch's own variable-length flash attention computes the same in its place, and the row says so.
Without any GPU a plain attention of the same form checks the code.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from cases import ALPHA, RANK, make_model
from peft import LoraConfig, get_peft_model
from published import Published
from shapes import TARGETS, Attempt, advantages, logprob
from torch.nn import functional
from trl.experimental.async_grpo import packing
from trl.experimental.async_grpo.async_grpo_trainer import AsyncGRPOTrainer, DataCollatorForRollout
from trl.trainer.utils import add_fused_lm_head


def steps(shape: Published, attempts: list[Attempt], device: str, checkpoint: bool) -> Iterator[dict[str, Any]]:
    """Take a step for each figure that is asked for."""
    notes = ["checkpointed"] if checkpoint else []
    if device == "cpu":
        packing._flash_attn = lambda: SimpleNamespace(flash_attn_varlen_func=_plain_varlen)
    elif (why := _no_kernel()) is not None:
        notes.append(f"torch's flash attention in place of FA3 ({why})")
        packing._flash_attn = lambda: SimpleNamespace(flash_attn_varlen_func=_torch_varlen)
    packing.register_tree_attention()
    model = make_model(shape, device, torch.bfloat16)
    model.set_attn_implementation(packing.TREE_ATTENTION)
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    if checkpoint:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trainer = SimpleNamespace(
        aux_loss_enabled=False, epsilon_low=0.2, epsilon_high=0.2, accelerator=Accelerator(cpu=device == "cpu"),
        current_gradient_accumulation_steps=1, _metrics={"train": defaultdict(list)}, _step_forward_tokens=0.0,
        _step_trained_tokens=0.0, _step_seq_len_weighted=0.0, _step_samples=0.0, _step_forward_s=0.0,
    )  # fmt: skip
    row = packing.TreeRow()
    for sample in _samples(attempts):
        row.add(sample)
    batch = {key: value.to(device) for key, value in DataCollatorForRollout(pad_token_id=0)([[row]]).items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    while True:
        loss = AsyncGRPOTrainer.compute_loss(trainer, model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {"note": ", ".join(notes), "packed": len(row.tokens), "loss": loss.item()}


def _no_kernel() -> str | None:
    """Return why TRL's kernel cannot be had here, or None."""
    try:
        packing._flash_attn()
    except Exception as error:  # the package is missing, the hub is out of reach, the card is another one
        return type(error).__name__
    return None


def _samples(attempts: list[Attempt]) -> list[dict[str, Any]]:
    worth = advantages(len(attempts))
    samples = []
    for attempt in attempts:
        old = [0.0] * len(attempt.prompt) + [logprob(k) for k in range(len(attempt.tokens))]
        samples.append(
            {
                "input_ids": torch.tensor([*attempt.prompt, *attempt.tokens]),
                "completion_mask": torch.tensor([0] * len(attempt.prompt) + list(attempt.sampled)),
                "old_log_probs": torch.tensor(old),
                "advantage": worth[attempt.rollout],
                "group_id": 0,
                "metrics": {},
            }
        )
    return samples


def _torch_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
    max_q: int, max_k: int, *, softmax_scale: float, **_: Any,
) -> torch.Tensor:  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    groups = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    starts = cu_q.to(torch.int32), cu_k.to(torch.int32)
    out: torch.Tensor = varlen_attn(
        query, key, value, *starts, int(max_q), int(max_k), scale=softmax_scale, window_size=(-1, 0), **groups
    )
    return out


def _plain_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor,
    *_: Any, softmax_scale: float, **__: Any,
) -> torch.Tensor:  # fmt: skip
    """Return the attention of each segment to its path, one after the other: for the check without a GPU."""
    out = []
    for q0, q1, k0, k1 in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:], strict=True):
        q, k, v = (x[a:b].transpose(0, 1)[None] for x, a, b in ((query, q0, q1), (key, k0, k1), (value, k0, k1)))
        rows, columns = q.shape[2], k.shape[2]
        seen = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        attended = functional.scaled_dot_product_attention(q, k, v, seen, scale=softmax_scale, enable_gqa=True)
        out.append(attended[0].transpose(0, 1))
    return torch.cat(out)
