"""Train the tiny policy to write well-formed calls, mostly of the wrong tool.

Supervised, from scratch, on the prompts that the agents of all three frameworks send. The calls it imitates are well
formed and name the right instrument, but mostly choose the wrong tool. Choosing the right one is left to reinforcement
learning.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from attempts import answer_text, call_text, confused_call
from dialects import DIALECTS, Dialect
from tiny_models import learning_rate, new_model, pad_batch, save
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from woodshed_tiny_world import Scenario, Shop, policy_path, train_scenarios
from woodshed_tiny_world.verifier import fact


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str, dialect: Dialect) -> str:
    """Return the prompt of the agent's first call, as the engine renders it."""
    chat = [{"role": "system", "content": dialect.system}, {"role": "user", "content": dialect.asked(question)}]
    return str(tokenizer.apply_chat_template(chat, tools=dialect.tools, tokenize=False, add_generation_prompt=True))


def tool_text(told: str) -> str:
    """Return what follows the end of a call in the prompt of the next one."""
    return f"\n<|im_start|>tool\n{told}<|im_end|>\n<|im_start|>assistant\n"


def lesson(tokenizer: PreTrainedTokenizerBase, scenario: Scenario, draw: random.Random) -> tuple[list[int], list[bool]]:
    """Return one conversation as tokens, and which of them are trained on."""
    dialect = draw.choice(DIALECTS)
    name, arguments = confused_call(scenario, draw)
    result = fact(name, arguments, Shop(draw.randrange(1 << 30)))
    ids: list[int] = []
    taught: list[bool] = []
    for text, mine in (
        (prompt_text(tokenizer, scenario.question, dialect), False),
        (call_text(name, arguments) + "<|im_end|>", True),
        (tool_text(dialect.told(result)), False),
        (answer_text(scenario.item, result) + "<|im_end|>", True),
    ):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        taught += [mine] * len(piece)
    return ids, taught


def train(tokenizer: PreTrainedTokenizerBase, *, steps: int, rows: int, rate: float, seed: int) -> Qwen3ForCausalLM:
    """Return the trained model."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = new_model(vocabulary=len(tokenizer), layers=2, positions=1024, eos=eos, pad=pad)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, betas=(0.9, 0.95))
    scenarios = train_scenarios()
    begun = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rate, step, steps)
        lessons = [lesson(tokenizer, draw.choice(scenarios), draw) for _ in range(rows)]
        ids_BT = pad_batch([ids for ids, _ in lessons], pad)
        taught_BT = pad_batch([[int(t) for t in taught] for _, taught in lessons], 0)[:, 1:].bool()
        hidden_BTH = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
        loss = F.cross_entropy(model.lm_head(hidden_BTH[taught_BT]), ids_BT[:, 1:][taught_BT])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(
                f"step {step + 1}/{steps}  loss {loss.item():.4f}  cpu {time.process_time() - begun:.0f} s", flush=True
            )
    return model


def main() -> None:
    """Train and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--rows", type=int, default=96, help="conversations in a batch")
    options.add_argument("--rate", type=float, default=3e-3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tokenizer", type=Path, default=policy_path())
    options.add_argument("--out", type=Path, default=policy_path())
    chosen = options.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(chosen.tokenizer)
    model = train(tokenizer, steps=chosen.steps, rows=chosen.rows, rate=chosen.rate, seed=chosen.seed)
    save(model, tokenizer, chosen.out, torch.float32)


if __name__ == "__main__":
    main()
