"""One optimizer step of TRL's GRPOTrainer with its fastest settings on a CPU.

No gradient checkpointing and no reference model. The rollouts are given, so nothing is generated. Old log-probabilities
are not computed again, because one step per batch does not need them.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
warnings.filterwarnings("ignore")

from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from shapes import (  # noqa: E402
    ALPHA,
    CASES,
    RANK,
    SHAPES,
    TARGETS,
    Attempt,
    advantages,
    logprob,
    make_model,
)
from tokenizers import Tokenizer, models  # noqa: E402
from transformers import PreTrainedTokenizerFast, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Reports each step's times and waits until the next step is requested."""

    def __init__(self, answer: Callable[[dict[str, float]], bool]) -> None:
        self.answer = answer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.cpu, self.wall = time.process_time(), time.monotonic()

    def on_step_end(self, _: Any, __: Any, control: Any, **___: Any) -> None:
        took = {"cpu_s": time.process_time() - self.cpu, "wall_s": time.monotonic() - self.wall}
        control.should_training_stop = not self.answer(took)


def serve(precision: str, case: str, hidden: int, rollouts: int, answer: Callable[[dict[str, float]], bool]) -> None:
    """Take steps on a CPU until `answer` returns False."""
    shape = SHAPES[hidden]
    with tempfile.TemporaryDirectory() as folder:
        train(
            make_model(shape, precision), CASES[case](rollouts, shape.vocabulary), rollouts, shape.vocabulary, answer,
            rank=RANK, alpha=ALPHA, output_dir=folder, use_cpu=True, bf16=precision == "bf16",
        )  # fmt: skip


def train(
    model: Any,
    attempts: list[Attempt],
    rollouts: int,
    vocabulary: int,
    answer: Callable[[dict[str, float]], bool],
    *,
    rank: int,
    alpha: float,
    **settings: Any,
) -> None:
    """Take steps on given rollouts until `answer`, which gets each one's seconds, returns False.

    `settings` are those of `GRPOConfig` that a machine decides.
    """
    worth = advantages(rollouts)
    given_rollouts = {
        "prompt_ids": [list(a.prompt) for a in attempts],
        "completion_ids": [list(a.tokens) for a in attempts],
        "env_mask": [list(a.sampled) for a in attempts],
        "logprobs": [[logprob(k) for k in range(len(a.tokens))] for a in attempts],
    }
    count = len(attempts)
    config = GRPOConfig(
        per_device_train_batch_size=count, gradient_accumulation_steps=1, num_generations=count,
        max_completion_length=max(len(a.tokens) for a in attempts), max_steps=10_000, learning_rate=1e-5,
        report_to=[], logging_steps=100_000, save_strategy="no", beta=0.0, disable_tqdm=True, seed=0,
        dataloader_pin_memory=False, loss_type="dapo", scale_rewards="none",
        **{"gradient_checkpointing": False, **settings},
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [worth[a.rollout] for a in attempts],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "w5"}] * 2 * count),
        processing_class=tokenizer(vocabulary),
        rollout_func=lambda prompts, trainer: given_rollouts,
        peft_config=LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS), task_type="CAUSAL_LM"),
    )
    trainer.add_callback(_Watch(answer))
    trainer.train()


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of as many invented words."""
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{k}": k for k in range(3, vocabulary)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
    )  # fmt: skip
