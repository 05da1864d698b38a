"""A model that is only served, with a LoRA of its own: every answer goes through it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from shop import TOOLS, WEIGHTS, question
from transformers import AutoModelForCausalLM, AutoTokenizer

from woodshed.engine import Engine, ServedModel

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


def judge_lora(folder: Path) -> Any:
    """Save a LoRA that changes a lot, and return the model with it."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=3.0)
    model.save_pretrained(folder)
    return model.eval()


async def test_every_answer_goes_through_the_adapter(tmp_path: Path) -> None:
    model = judge_lora(tmp_path / "lora")
    served = ServedModel(name="judge", path=str(WEIGHTS), dtype="float32", adapter=str(tmp_path / "lora"))

    async with (
        Engine.local(python=sys.executable).running([served], tmp_path / "engine") as client,
        openai.AsyncOpenAI(base_url=client.openai_base_url, api_key=client.api_key, max_retries=0) as judge,
    ):
        answer = await judge.chat.completions.create(
            **question(model="judge", temperature=1, seed=3, logprobs=True, tools=TOOLS, max_tokens=1)
        )

    (sampled,) = answer.choices[0].logprobs.content
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    ids = tokenizer.apply_chat_template(
        question()["messages"], tools=TOOLS, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    (token_id,) = tokenizer.encode(sampled.token, add_special_tokens=False)
    with torch.no_grad():
        expected = float(model(ids).logits[0, -1].log_softmax(-1)[token_id])
        with model.disable_adapter():
            bare = float(model(ids).logits[0, -1].log_softmax(-1)[token_id])
    assert answer.model == "judge"
    assert sampled.logprob == pytest.approx(expected, abs=1e-3)
    assert abs(expected - bare) > 0.1
