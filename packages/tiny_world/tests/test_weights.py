"""The weights are there, small, and complete enough to be served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed_tiny_world import judge_path, policy_path

FOLDERS = [policy_path(), judge_path()]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_folder_is_complete(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())

    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["vocab_size"] == len(tokenizer["model"]["vocab"]) + 2
    assert (folder / "model.safetensors").stat().st_size > 1_000_000
    assert "<tool_call>" in (folder / "chat_template.jinja").read_text()


def test_tool_call_tags_stay_in_the_text() -> None:
    added = {
        t["content"]: t["special"] for t in json.loads((policy_path() / "tokenizer.json").read_text())["added_tokens"]
    }

    assert (added["<tool_call>"], added["</tool_call>"], added["<|im_end|>"]) == (False, False, True)


def test_all_weights_together_are_small_enough_for_git() -> None:
    size = sum(f.stat().st_size for folder in FOLDERS for f in folder.rglob("*") if f.is_file())

    assert size <= 8_000_000


def test_importing_the_world_needs_neither_torch_nor_a_framework() -> None:
    code = (
        "import woodshed_tiny_world, sys; "
        "print(sorted({'torch', 'vllm', 'langchain', 'langgraph'} & sys.modules.keys()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
