"""Random token trees, tiny random models, and what training makes of them: packed, and one row at a time."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from woodshed.engine.trainer.attention.decoder import Checkpointed
from woodshed.engine.trainer.forward import ForwardMode, TrainingRow, forward_logprobs, micro_batches
from woodshed.tokens import Row

CPU = torch.device("cpu")
VOCABULARY = 61
ARCHITECTURES = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
Rows = list[TrainingRow]


@cache
def model(architecture: str) -> Any:
    """Return a tiny random model whose attention and whole LoRA matter."""
    config = ARCHITECTURES[architecture](
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, tie_word_embeddings=architecture != "llama",
        initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    return get_peft_model(AutoModelForCausalLM.from_config(config), lora).eval()


def tree(seed: int) -> Rows:
    """Return rows that grow from each other's prefixes, each trained at random tokens, at one of two temperatures."""
    draw = random.Random(seed)
    rows: Rows = []
    for number in range(draw.randint(1, 7)):
        known = draw.choice(rows).row.token_ids if rows and draw.random() < 0.8 else ()
        ids = known[: draw.randint(0, len(known))] + tuple(draw.randrange(4) for _ in range(draw.randint(2, 12)))
        trained = [False] + [draw.random() < 0.6 for _ in ids[1:]]
        trained[-1] = True
        at = [t or None for t in trained]
        rows.append(
            TrainingRow(
                row=Row(
                    token_ids=ids,
                    trained=tuple(trained),
                    logprobs=tuple(t and -1.0 for t in at),
                    weight_versions=tuple(t and 0 for t in at),
                    temperatures=tuple(t and draw.choice((1.0, 0.7)) for t in at),
                    call_ids=tuple(t and "c" for t in at),
                ),
                rollout=number,
                advantages=[0.0] * len(ids),
            )
        )
    return rows


def worth(rollout_of_M: Tensor, token_M: Tensor) -> Tensor:
    """Return a weight for each trained token that depends on what it is, not on where it lies."""
    return torch.sin(1.0 + 3.0 * rollout_of_M + token_M)


def packed(
    of: Any, rows: Rows, mode: ForwardMode, budget: int, checkpointed: Checkpointed = False, device: torch.device = CPU
) -> tuple[list[float], Tensor]:
    """Return sorted log-probabilities with their rollouts, and the gradient."""
    of.zero_grad()
    told: list[tuple[int, float]] = []
    for batch in micro_batches(rows, token_budget=budget, mode=mode, device=device):
        logprobs_M = forward_logprobs(of, batch, mode, checkpointed=checkpointed).logprobs_M
        (logprobs_M * worth(batch.rollout_of_M, batch.token_M)).sum().backward()
        told += zip(batch.rollout_of_M.tolist(), logprobs_M.tolist(), strict=True)
    return [logprob for _, logprob in sorted(told)], gradient(of)


def one_at_a_time(of: Any, rows: Rows) -> tuple[list[float], Tensor]:
    """Return the same by a plain forward pass a row, with a full softmax."""
    of.zero_grad()
    told: list[tuple[int, float]] = []
    for given_row in rows:
        row = given_row.row
        logits = of(input_ids=torch.tensor([row.token_ids])).logits[0]
        at = [k for k, is_trained in enumerate(row.trained) if is_trained]
        heat = torch.tensor([row.temperatures[k] for k in at])
        tokens = torch.tensor([row.token_ids[k] for k in at])
        every = (logits[[k - 1 for k in at]] / heat[:, None]).log_softmax(-1)
        logprobs = every[torch.arange(len(at)), tokens]
        (logprobs * worth(torch.full_like(tokens, given_row.rollout), tokens)).sum().backward()
        told += [(given_row.rollout, logprob) for logprob in logprobs.tolist()]
    return [logprob for _, logprob in sorted(told)], gradient(of)


def gradient(of: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])
