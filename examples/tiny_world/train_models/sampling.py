"""Sample attempts from a policy in plain PyTorch, so that the judge trains on what a policy really writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attempts import Attempt, Turn, parse_call, tool_answer
from dialects import Dialect
from policy import prompt_text, tool_text
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from woodshed_tiny_world import Scenario, Shop

MOST_TURNS = 3


@torch.no_grad()
def sample_tokens(
    model: Qwen3ForCausalLM, prompts: Sequence[list[int]], *, temperature: float, most: int, eos: int, pad: int
) -> list[list[int]]:
    """Return a continuation of each prompt, including the end token if the model wrote one."""
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    seen_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    place_BT = (seen_BT.cumsum(1) - 1).clamp(min=0)
    written: list[list[int]] = [[] for _ in prompts]
    open_ = set(range(len(prompts)))
    cache = None
    for _ in range(most):
        out = model(
            input_ids=ids_BT,
            attention_mask=seen_BT,
            position_ids=place_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = out.past_key_values
        logits_BV = out.logits[:, -1].float()
        next_B = (
            logits_BV.argmax(-1)
            if temperature == 0
            else torch.multinomial((logits_BV / temperature).softmax(-1), 1)[:, 0]
        )
        for row, token in enumerate(next_B.tolist()):
            if row in open_:
                written[row].append(token)
                if token == eos:
                    open_.discard(row)
        if not open_:
            break
        ids_BT, place_BT = next_B[:, None], place_BT[:, -1:] + 1
        seen_BT = torch.cat([seen_BT, torch.ones_like(ids_BT)], 1)
    return written


def sample_attempts(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[tuple[Scenario, Shop]],
    dialect: Dialect,
    *,
    temperature: float,
) -> list[Attempt]:
    """Return one attempt per task, made by a loop of calls and tool results like the agent's."""
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    told = [
        tokenizer(prompt_text(tokenizer, s.question, dialect), add_special_tokens=False)["input_ids"] for s, _ in tasks
    ]
    turns: list[list[Turn]] = [[] for _ in tasks]
    live = list(range(len(tasks)))
    for _ in range(MOST_TURNS):
        if not live:
            break
        pieces = sample_tokens(model, [told[i] for i in live], temperature=temperature, most=48, eos=eos, pad=pad)
        going = []
        for i, piece in zip(live, pieces, strict=True):
            text = tokenizer.decode(piece, skip_special_tokens=True)
            called = parse_call(text)
            turn = Turn(text=text)
            if called:
                shop = tasks[i][1]
                turn = Turn(text=text, result=tool_answer(*called, shop), told=dialect.answer(*called, shop))
                told[i] += piece + tokenizer(tool_text(turn.told or ""), add_special_tokens=False)["input_ids"]
                going.append(i)
            turns[i].append(turn)
        live = going
    return [tuple(t) for t in turns]
