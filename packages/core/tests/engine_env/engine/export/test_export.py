"""Promises of an export: every form that is written gives the policy's log-probabilities, or nothing is written."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from woodshed.engine.client.config import ServedModel
from woodshed.engine.export.export import export
from woodshed.engine.export.gguf_tokenizer import add_tokenizer
from woodshed.engine.export.log_probs import furthest, log_probs
from woodshed.engine.vllm.gguf import converted
from woodshed.errors import ConfigError, EngineError
from woodshed.types import ExportJob, ExportReport

POLICY = Path(__file__).parents[5] / "tiny_world/src/woodshed_tiny_world/weights/policy"
SIZES: dict[str, Any] = {
    "vocab_size": 1600, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=128),
}
TEXTS = ((5, 99, 1200, 7, 640, 33, 2, 18), tuple(range(40, 140)))
BYTE_LEVEL: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WOODSHED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def model_folder(folder: Path, config: Any, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random model with the tiny world's tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    return with_tokenizer(folder)


def with_tokenizer(folder: Path, **splitting: Any) -> Path:
    """Add the tiny world's tokenizer, which splits text as GPT-2 does or as said (its own way has no name in GGUF)."""
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(POLICY / name, folder)
    tokenizer = json.loads((POLICY / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = BYTE_LEVEL | {"use_regex": True} | splitting
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """Return a model and a LoRA of it."""
    base = model_folder(tmp_path / "policy", FAMILIES["llama, tied"])
    return base, lora_folder(tmp_path / "lora", base)


def lora_folder(folder: Path, base: Path) -> Path:
    """Save a LoRA that changes a lot."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=8, target_modules=TARGETS))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    return folder


def job(tmp_path: Path, base: Path, lora: Path, **changes: Any) -> ExportJob:
    (tmp_path / "out").mkdir(exist_ok=True)
    given = {"base": str(base), "base_name": "the-base", "adapter": str(lora), "folder": str(tmp_path / "out")}
    return ExportJob(**given | {"check_ids": TEXTS} | changes)


def done(asked: ExportJob) -> ExportReport:
    return export(asked, lambda _: None)


def policy(base: Path, lora: Path) -> list[torch.Tensor]:
    """Return what transformers and PEFT give, as the trainer has it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    bare = log_probs(model, TEXTS)
    found = log_probs(PeftModel.from_pretrained(model, lora), TEXTS)
    assert furthest(bare, found) > 0.5
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_and_the_gguf_file_are_the_policy(tmp_path: Path, family: str) -> None:
    base = model_folder(tmp_path / "base", FAMILIES[family])
    lora = lora_folder(tmp_path / "lora", base)
    merged_report = done(job(tmp_path, base, lora, dtype="float32"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    (tmp_path / "out").rename(tmp_path / "merged")
    report = done(job(tmp_path, base, lora, quantisation="F32"))
    # By the converter with which an engine serves a GGUF file.
    served = ServedModel(name="policy", path=str(tmp_path / "out" / "model.gguf"))
    (folder,) = asyncio.run(converted([served], lambda _: None))
    file = AutoModelForCausalLM.from_pretrained(folder.path, dtype=torch.float32)

    expected = policy(base, lora)
    assert furthest(expected, log_probs(merged, TEXTS)) < 1e-4
    assert furthest(expected, log_probs(file, TEXTS)) < 1e-4
    checks = (*report.checks, *merged_report.checks)
    assert [(c.form, c.log_probs < 1e-4, c.weights) for c in checks] == [
        ("GGUF, F32", True, 0.0),
        ("merged, float32", True, None),
    ]
    of_base, of_file = (AutoTokenizer.from_pretrained(path) for path in (base, folder.path))
    assert of_file.encode("How many lamps? 3!") == of_base.encode("How many lamps? 3!")
    assert of_file.chat_template == of_base.chat_template
    assert (of_file.eos_token_id, of_file.pad_token_id) == (of_base.eos_token_id, of_base.pad_token_id)


@pytest.mark.parametrize(("quantisation", "step"), [("F16", 2**-11), ("BF16", 2**-8), ("Q8_0", 1 / 254 + 2**-11)])
def test_a_gguf_file_differs_by_no_more_than_its_quantisation(
    tmp_path: Path, trained: tuple[Path, Path], quantisation: str, step: float
) -> None:
    report = done(job(tmp_path, *trained, quantisation=quantisation))
    base, lora = trained
    policy_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), lora).merge_and_unload()
    file = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32)

    true, found = policy_model.state_dict(), file.state_dict()
    for name, weight in true.items():
        assert (found[name] - weight).abs().max() <= step * weight.abs().max(), name
    (check,) = report.checks
    assert (check.form, check.weights) == (f"GGUF, {quantisation}", 0.0)
    assert 0 < check.log_probs < 1.0
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    assert kinds == {quantisation, "F32"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]


@pytest.mark.parametrize(("stored", "asked", "written"), [
    (torch.bfloat16, "auto", "bfloat16"), (torch.float32, "auto", "float32"), (torch.float32, "bfloat16", "bfloat16"),
])  # fmt: skip
def test_weights_are_stored_as_the_base_is_or_as_asked(
    tmp_path: Path, stored: torch.dtype, asked: str, written: str
) -> None:
    base = model_folder(tmp_path / "base", FAMILIES["qwen3"], stored)
    report = done(job(tmp_path, base, lora_folder(tmp_path / "lora", base), dtype=asked))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")

    assert str(again.dtype) == f"torch.{written}"
    assert (report.dtype, report.checks[0].form) == (written, f"merged, {written}")
    assert report.checks[0].log_probs < (1e-4 if written == "float32" else 1.0)


def test_the_template_that_the_policy_was_trained_with_is_in_every_form(
    tmp_path: Path, trained: tuple[Path, Path]
) -> None:
    done(job(tmp_path, *trained, dtype="auto", chat_template="{{ mine }}"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ mine }}"
    shutil.rmtree(tmp_path / "out")
    done(job(tmp_path, *trained, quantisation="F16", chat_template="{{ mine }}"))
    assert gguf.GGUFReader(tmp_path / "out/model.gguf").fields["tokenizer.chat_template"].contents() == "{{ mine }}"


def test_no_file_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", FAMILIES["qwen3"])
    lora = lora_folder(tmp_path / "lora", base)
    done(job(tmp_path, base, lora, dtype="auto"))
    done(job(tmp_path, base, lora, quantisation="Q8_0"))

    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert gguf.GGUFReader(tmp_path / "out/model.gguf").fields["general.name"].contents() == "the-base"


def test_a_model_that_gguf_is_not_written_of_is_refused_with_the_way_round(tmp_path: Path) -> None:
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    for number, (config, named) in enumerate((
        (Gemma3TextConfig(**SIZES, head_dim=16), "model type 'gemma3_text'"),
        (LlamaConfig(**SIZES, rope_parameters=scaled), "rope type 'linear'"),
        (MistralConfig(**SIZES, sliding_window=64), "sliding window 64"),
    )):  # fmt: skip
        base = model_folder(tmp_path / f"base-{number}", config)
        asked = job(tmp_path, base, lora_folder(tmp_path / f"lora-{number}", base), quantisation="F16")
        with pytest.raises(EngineError, match=rf"model with .*{named}.*--merged.*convert_hf_to_gguf"):
            done(asked)


REGEX_OF_QWEN2 = GGUF_PRE_TOKENIZER_SPLITS["qwen2"]


def split_by(regex: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, BYTE_LEVEL | {"use_regex": False}]}


@pytest.mark.parametrize(
    ("splitting", "name"),
    [
        ({}, "gpt-2"),
        (split_by(REGEX_OF_QWEN2), "qwen2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL | {"use_regex": True}],
            },
            "smollm",
        ),
    ],
)
def test_the_way_of_splitting_text_has_its_name(
    tmp_path: Path, trained: tuple[Path, Path], splitting: dict[str, Any], name: str
) -> None:
    with_tokenizer(trained[0], **splitting)
    report = done(job(tmp_path, *trained, quantisation="F16"))

    assert gguf.GGUFReader(tmp_path / "out/model.gguf").fields["tokenizer.ggml.pre"].contents() == name
    # transformers reads digits one by one in no GGUF file; llama.cpp does.
    assert [note for note in report.notes if "It costs 12345.67" in note] == list(report.notes)
    assert bool(report.notes) == (name == "smollm")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pre_tokenizer": split_by("my own")}, r"no name for the way in which this tokenizer splits text .*my own"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}}, r"tokenizer of type 'Unigram'"),
    ],
)
def test_a_tokenizer_that_gguf_would_read_otherwise_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    tokenizer = json.loads((POLICY / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "llama")
    with pytest.raises(EngineError, match=said + ".*--merged"):
        add_tokenizer(writer, tmp_path, vocabulary=1600, instead="Export with --merged")


def test_a_lora_of_another_model_and_a_base_that_is_gone_are_refused(tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", FAMILIES["llama"])
    lora = lora_folder(tmp_path / "lora", other)
    with pytest.raises(EngineError, match="the LoRA does not fit the base model"):
        done(job(tmp_path, POLICY, lora, dtype="auto"))
    with pytest.raises(ConfigError, match="there is no folder"):
        done(job(tmp_path, tmp_path / "gone", lora, dtype="auto"))
    (other / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(EngineError, match="cannot be loaded"):
        done(job(tmp_path, other, lora, dtype="auto"))


def test_a_file_that_transformers_would_read_otherwise_is_not_written(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", Qwen3Config(**SIZES, head_dim=32))
    with pytest.raises(EngineError, match="would read head_dim as 128 instead of 32"):
        done(job(tmp_path, base, lora_folder(tmp_path / "lora", base), quantisation="F16"))


@pytest.mark.parametrize("forms", [{"dtype": "float32"}, {"quantisation": "F32"}], ids=["merged", "gguf"])
def test_a_disk_that_fills_up_is_named(tmp_path: Path, trained: tuple[Path, Path], forms: dict[str, str]) -> None:
    asked = job(tmp_path, *trained, **forms)
    (tmp_path / "job.json").write_text(asked.model_dump_json())
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
        "sys.argv = ['x', sys.argv[1]]; runpy.run_module('woodshed.engine.export', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "job.json")],
        capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip

    told = json.loads(ended.stdout.splitlines()[-1])
    assert "cannot be written" in told["error"] and "MiB are free there" in told["error"], (told, ended.stderr[-500:])
