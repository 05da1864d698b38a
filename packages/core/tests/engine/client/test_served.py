"""A run never trains another model than it asks for: what an engine serves is compared with what the user set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from woodshed import Policy
from woodshed.engine import ServedModel
from woodshed.engine.client.fingerprint import file_hash, fingerprint, whole_hash
from woodshed.engine.client.served import check_served
from woodshed.errors import ConfigError
from woodshed.types import LoraSettings, ModelHealth, ModelSettings

URL = "http://gpu-box:8900"


def folder(path: Path, weights: bytes = b"weights", **config: Any) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen3", **config}))
    (path / "model.safetensors").write_bytes(weights)
    return path


def serving(model: str | Path, **settings: Any) -> list[ModelHealth]:
    defaults: dict[str, Any] = {
        "fingerprint": fingerprint(model), "trainable": True, "max_model_len": 4096, "tool_call_parser": "hermes",
        "dtype": "float32", "max_lora_rank": 16, "lora_slots": 3,
    }  # fmt: skip
    found = ModelSettings(model=str(model), **(defaults | settings))
    return [ModelHealth(name="policy", model=str(model), vllm="0.32.0", ready=True, settings=found)]


def differences(asked: ServedModel, served: list[ModelHealth]) -> str:
    with pytest.raises(ConfigError) as refused:
        check_served(URL, [asked], served)
    return str(refused.value)


def test_another_model_length_and_parser_are_all_named_with_both_values(tmp_path: Path) -> None:
    tiny = folder(tmp_path / "tiny")
    asked = Policy("Qwen/Qwen2.5-3B-Instruct", max_model_len=64, tool_call_parser="llama3_json").served()
    said = differences(asked, serving(tiny))

    assert f"policy: model is '{tiny} ({fingerprint(tiny)})', asked for is 'Qwen/Qwen2.5-3B-Instruct'" in said
    assert "policy: max_model_len is 4096, asked for is 64" in said
    assert "policy: tool_call_parser is 'hermes', asked for is 'llama3_json'" in said
    assert (
        "woodshed engine start --model policy=Qwen/Qwen2.5-3B-Instruct --max-model-len policy=64 "
        "--tool-call-parser policy=llama3_json" in said
    )


def test_what_the_user_did_not_set_is_not_compared(tmp_path: Path) -> None:
    tiny = folder(tmp_path / "tiny")
    served = serving(tiny, max_model_len=777, tool_call_parser="mistral", dtype="bfloat16", reasoning_parser="qwen3")

    check_served(URL, [Policy(str(tiny)).served()], served)


@pytest.mark.parametrize(
    ("asked", "served", "named"),
    [
        ({"max_model_len": 64}, {"max_model_len": 63}, "max_model_len is 63, asked for is 64"),
        ({"tool_call_parser": None}, {"tool_call_parser": "hermes"}, "tool_call_parser is 'hermes', asked for is None"),
        ({"reasoning_parser": "qwen3"}, {}, "reasoning_parser is None, asked for is 'qwen3'"),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}, "dtype is 'float32', asked for is 'bfloat16'"),
        ({"max_lora_rank": 32}, {"max_lora_rank": 16}, "max_lora_rank is 16, asked for is 32"),
        ({"trainable": True}, {"trainable": False}, "trainable is False, asked for is True"),
        ({"chat_template": "./a.jinja"}, {}, "chat_template is None, asked for is './a.jinja'"),
    ],
    ids=str,
)
def test_each_setting_is_compared(tmp_path: Path, asked: dict[str, Any], served: dict[str, Any], named: str) -> None:
    tiny = folder(tmp_path / "tiny")
    model = ServedModel.model_validate({"name": "policy", "path": str(tiny), "trainable": True} | asked)

    assert f"policy: {named}" in differences(model, serving(tiny, **served))


@pytest.mark.parametrize(
    "asked",
    [
        {"max_model_len": None},
        {"dtype": "auto"},
        {"max_lora_rank": 8},
        {"tool_call_parser": "hermes"},
        {"tool_call_parser": "auto"},
    ],
    ids=str,
)
def test_what_is_served_as_asked_or_better_is_accepted(tmp_path: Path, asked: dict[str, Any]) -> None:
    tiny = folder(tmp_path / "tiny")

    check_served(URL, [ServedModel(name="policy", path=str(tiny), trainable=True, **asked)], serving(tiny))


def test_a_copy_elsewhere_is_the_same_model_and_one_with_other_weights_is_not(tmp_path: Path) -> None:
    first = folder(tmp_path / "a/model", b"w" * 5_000_000)
    shutil.copytree(first, tmp_path / "b")
    # One training step later: same config, same size.
    other = folder(tmp_path / "c/model", b"v" * 5_000_000)

    check_served(URL, [Policy(str(first)).served()], serving(tmp_path / "b"))
    assert "policy: model is" in differences(Policy(str(first)).served(), serving(other))


def test_a_folder_that_only_the_engines_machine_has_is_told_by_its_name() -> None:
    check_served(URL, [Policy("/models/mine").served()], serving("/models/mine", fingerprint="f00"))
    assert "model is '/models/mine (f00)', asked for is '/models/other'" in differences(
        Policy("/models/other").served(), serving("/models/mine", fingerprint="f00")
    )


def test_a_template_is_compared_by_its_text(tmp_path: Path) -> None:
    tiny = folder(tmp_path / "tiny")
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    model = ServedModel(name="policy", path=str(tiny), chat_template=str(tmp_path / "mine.jinja"))
    there = {"chat_template": "/engine/its.jinja", "chat_template_hash": "0" * 16}

    assert "chat_template is '/engine/its.jinja (0000000000000000)'" in differences(model, serving(tiny, **there))
    (tmp_path / "copy.jinja").write_text("{{ messages }}")
    copied = ServedModel(name="policy", path=str(tiny), chat_template=str(tmp_path / "copy.jinja"))
    there["chat_template_hash"] = str(file_hash(tmp_path / "copy.jinja"))
    check_served(URL, [model, copied], serving(tiny, **there))


def test_fewer_lora_slots_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = folder(tmp_path / "tiny")
    asked = Policy(str(tiny), lora=LoraSettings(rank=8)).served().model_copy(update={"lora_slots": 5})
    check_served(URL, [asked], serving(tiny))

    assert "can mix 3 versions of 'policy', and max_staleness makes up to 5" in caplog.text


def test_a_gguf_file_is_what_the_engine_made_of_it(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF and so on")
    asked = Policy(str(file)).served()
    made = folder(tmp_path / whole_hash(file))

    check_served(URL, [asked], serving(made))
    assert "model is" in differences(asked, serving(folder(tmp_path / "another")))
