"""A tiny random Qwen3 on disk, and rollouts sampled from it by itself (exact log-probabilities, no engine needed)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from woodshed.types import (
    Completion,
    LossSettings,
    Message,
    OpenPolicy,
    OptimizerSettings,
    SealedSession,
    StepRequest,
    TokenCall,
    WeightedRollout,
)

VOCABULARY = 97


def save_model(folder: Path, *, hidden: int = 32, layers: int = 2, vocabulary: int = VOCABULARY) -> str:
    """Make a random Qwen3 whose attention matters (large initial weights) and return its folder."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=max(8, hidden // 4),
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def session(rollout_id: str, prompt: Sequence[int], turns: Sequence[Sequence[int]], **changes: object) -> SealedSession:
    """Return a session of one call per turn; each prompt is the whole history and a one-token tool result."""
    calls = []
    history = tuple(prompt)
    for number, turn in enumerate(turns):
        calls.append(_call(f"{rollout_id}/{number}", number, history, tuple(turn)).model_copy(update=changes))
        history = (*history, *turn, 5)
    return SealedSession(rollout_id=rollout_id, calls=tuple(calls))


def _call(call_id: str, number: int, prompt: tuple[int, ...], token_ids: tuple[int, ...]) -> TokenCall:
    generator = random.Random(call_id)
    return TokenCall(
        call_id=call_id,
        started_s=float(number),
        latency_s=0.1,
        messages=(Message(role="user", content="…"),),
        prompt_ids=prompt,
        completions=(
            Completion(
                index=0,
                message=Message(role="assistant", content="…"),
                token_ids=token_ids,
                logprobs=tuple(-4.5 + 0.2 * generator.random() for _ in token_ids),
                weight_versions=(0,) * len(token_ids),
            ),
        ),
        sampling={"temperature": 1.0},
    )


def group(
    name: str,
    *,
    size: int = 4,
    prompt: int = 12,
    turns: int = 2,
    length: int = 5,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
) -> dict[str, SealedSession]:
    """Return a group of rollouts that share their prompt."""
    generator = random.Random(f"{name}{seed}")
    draw = [[generator.randrange(6, vocabulary) for _ in range(length)] for _ in range(size * turns)]
    shared = [generator.randrange(6, vocabulary) for _ in range(prompt)]
    return {f"{name}{k}": session(f"{name}{k}", shared, draw[k * turns : (k + 1) * turns]) for k in range(size)}


def request(step_id: str, advantages: dict[str, float]) -> StepRequest:
    """Return a request to train rollouts with the given advantages."""
    return StepRequest(
        step_id=step_id,
        rollouts=tuple(WeightedRollout(rollout_id=i, advantage=a) for i, a in advantages.items()),
    )


SESSIONS = {**group("a"), **group("b")}
"""Two groups of four rollouts of two calls: 80 sampled tokens."""
LOSS = LossSettings(drift_stop=1e9)
"""The log-probabilities are made up, so no policy ever sampled these rollouts."""
POLICY = OpenPolicy(name="p", optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=1), loss=LOSS)


def numbered(number: int) -> StepRequest:
    """Return step `s<number>` over `SESSIONS`, with advantages that change sign from step to step."""
    sign = 1.0 if number % 2 else -1.0
    return request(f"s{number}", {name: sign * [1.0, -0.5, -0.75, 0.25][k % 4] for k, name in enumerate(SESSIONS)})
