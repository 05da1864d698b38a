"""The number format a served model computes in is the one its trainer computes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from etude.engine.config import ServedModel
from etude.engine.server.command import command_line, dtype_for


def folder(tmp_path: Path, dtype: str) -> str:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": dtype, "max_position_embeddings": 128}))
    return str(tmp_path)


@pytest.mark.parametrize(("gpu", "expected"), [(False, "float32"), (True, "bfloat16")])
def test_a_trainable_model_is_served_in_the_trainers_own_format(tmp_path: Path, gpu: bool, expected: str) -> None:
    model = ServedModel(name="policy", path=folder(tmp_path, "bfloat16"), trainable=True)

    assert dtype_for(model, gpu=gpu) == expected


def test_a_float32_model_keeps_its_format_without_a_gpu(tmp_path: Path) -> None:
    assert dtype_for(ServedModel(name="judge", path=folder(tmp_path, "float32")), gpu=False) == "float32"


def test_what_was_asked_for_wins(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path=folder(tmp_path, "float32"), trainable=True, dtype="bfloat16")

    assert dtype_for(model, gpu=False) == "bfloat16"


def test_a_model_whose_format_is_not_known_is_left_to_vllm() -> None:
    assert dtype_for(ServedModel(name="judge", path="some/model"), gpu=False) == "auto"


def test_the_format_is_on_vllms_command_line(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path=folder(tmp_path, "float32"), trainable=True, max_model_len=64)

    line = command_line(model, 8000, gpu=True)

    assert line[line.index("--dtype") + 1] == "bfloat16"
