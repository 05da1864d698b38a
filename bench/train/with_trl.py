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
from shapes import ALPHA, CASES, RANK, SHAPES, TARGETS, advantages, logprob, make_model  # noqa: E402
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
    """Take steps until `answer` returns False."""
    shape = SHAPES[hidden]
    attempts = CASES[case](rollouts, shape.vocabulary)
    worth = advantages(rollouts)
    given_rollouts = {
        "prompt_ids": [list(a.prompt) for a in attempts],
        "completion_ids": [list(a.tokens) for a in attempts],
        "env_mask": [list(a.sampled) for a in attempts],
        "logprobs": [[logprob(k) for k in range(len(a.tokens))] for a in attempts],
    }
    count = len(attempts)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=count, gradient_accumulation_steps=1, num_generations=count,
            max_completion_length=max(len(a.tokens) for a in attempts), max_steps=10_000, learning_rate=1e-5,
            report_to=[], logging_steps=100_000, save_strategy="no", use_cpu=True, beta=0.0, disable_tqdm=True, seed=0,
            dataloader_pin_memory=False, bf16=precision == "bf16", gradient_checkpointing=False, loss_type="dapo",
            scale_rewards="none",
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=make_model(shape, precision),
            reward_funcs=lambda completions, **_: [worth[a.rollout] for a in attempts],
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "w5"}] * 2 * count),
            processing_class=_tokenizer(shape.vocabulary),
            rollout_func=lambda prompts, trainer: given_rollouts,
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM"),
        )
        trainer.add_callback(_Watch(answer))
        trainer.train()


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{k}": k for k in range(3, vocabulary)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
    )  # fmt: skip
