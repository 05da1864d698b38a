"""The number format a served model computes in is the one its trainer computes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from woodshed.engine.client.config import ServedModel, check_model
from woodshed.engine.vllm.command import command_line, dtype_for, fork_server_environment, server_environment
from woodshed.errors import ConfigError


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


def test_a_fixed_adapter_answers_under_the_models_name(tmp_path: Path) -> None:
    model = ServedModel(name="judge", path=folder(tmp_path, "float32"), adapter="my/lora", max_lora_rank=32)

    line = command_line(model, 8000, gpu=False)

    assert line[line.index("--lora-modules") + 1] == "judge=my/lora"
    assert line[line.index("--served-model-name") + 1] == "judge.base"
    assert line[line.index("--max-lora-rank") + 1] == "32"


def test_an_adapter_that_cannot_be_served_is_said_before_anything_starts(tmp_path: Path) -> None:
    model = ServedModel(name="judge", path=folder(tmp_path, "float32"), adapter=str(tmp_path))

    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        check_model(model)
    with pytest.raises(ConfigError, match=r"start its training from an adapter with Policy\(adapter=\.\.\.\)"):
        check_model(model.model_copy(update={"trainable": True}))


@pytest.mark.parametrize(("parser", "plugin"), [("hermes", []), ("json", ["woodshed.engine.vllm.json_calls"])])
def test_a_parser_of_ours_comes_with_its_plugin(tmp_path: Path, parser: str, plugin: list[str]) -> None:
    line = command_line(
        ServedModel(name="policy", path=folder(tmp_path, "float32"), tool_call_parser=parser), 8000, gpu=False
    )

    assert line[line.index("--tool-call-parser") + 1] == parser
    assert [line[k + 1] for k, argument in enumerate(line) if argument == "--tool-parser-plugin"] == plugin


def test_on_a_gpu_vllm_starts_without_flashinfer_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_USE_FLASHINFER_SAMPLER", raising=False)
    default = fork_server_environment(1, gpu=True)
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")

    assert default["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert fork_server_environment(1, gpu=True)["VLLM_USE_FLASHINFER_SAMPLER"] == "1"


def test_a_model_that_sleeps_is_started_so_and_no_other_opens_vllms_inner_endpoints(tmp_path: Path) -> None:
    split = ServedModel(name="policy", path=folder(tmp_path, "bfloat16"), trainable=True)
    sleep = split.model_copy(update={"gpu_sharing": "sleep"})
    lines = [command_line(model, 8000, gpu=True) for model in (split, sleep)]
    environments = [server_environment(model, "key") for model in (split, sleep)]

    assert ["--enable-sleep-mode" in line for line in lines] == [False, True]
    assert ["VLLM_SERVER_DEV_MODE" in environment for environment in environments] == [False, True]
