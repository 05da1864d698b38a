"""Promises of Unsloth: refused with what is missing, called with parameters it has, and chosen only where it runs."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from woodshed.engine.trainer import loader
from woodshed.engine.trainer.backend import choose_loader, import_loader
from woodshed.engine.trainer.loader import load_with_lora
from woodshed.errors import TrainError
from woodshed.types import LoraSettings, OpenPolicy

CPU = torch.device("cpu")


def asked(**settings: Any) -> OpenPolicy:
    return OpenPolicy(name="p", **settings)


@pytest.fixture
def unsloth(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a stand-in for Unsloth in its place, with its signatures, and return the calls it gets."""
    calls: list[dict[str, Any]] = []

    # The parameters that woodshed names, as unsloth 2026.10.7 declares them (unsloth/models/loader.py and llama.py).
    def from_pretrained(
        model_name: str = "", max_seq_length: int = 2048, dtype: Any = None, load_in_4bit: bool = True,
        device_map: Any = "sequential", use_gradient_checkpointing: Any = "unsloth", fast_inference: bool = False,
        random_state: int = 3407,
    ) -> tuple[Any, Any]:  # fmt: skip
        calls.append(dict(locals()) | {"called": "from_pretrained"})
        return AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), "tokenizer"

    def peft(
        model: Any, r: int = 16, target_modules: Any = (), lora_alpha: int = 16, lora_dropout: float = 0.0,
        bias: str = "none", use_gradient_checkpointing: Any = "unsloth", random_state: int = 3407,
    ) -> Any:  # fmt: skip
        calls.append(dict(locals()) | {"called": "get_peft_model"})
        return get_peft_model(model, LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules))

    module = types.ModuleType("unsloth")
    module.__spec__ = importlib.util.spec_from_loader("unsloth", loader=None)
    module.FastLanguageModel = types.SimpleNamespace(  # type: ignore[attr-defined]
        from_pretrained=from_pretrained, get_peft_model=peft
    )
    monkeypatch.setitem(sys.modules, "unsloth", module)
    return calls


def test_without_a_gpu_unsloth_is_refused_and_auto_takes_peft(model_path: str) -> None:
    with pytest.raises(TrainError, match=r"trainer='unsloth' needs an NVIDIA GPU, and torch 2\S* finds none"):
        choose_loader(asked(trainer="unsloth"), cuda=False)
    with pytest.raises(TrainError, match="load_in_4bit=True needs an NVIDIA GPU"):
        choose_loader(asked(load_in_4bit=True), cuda=False)

    assert choose_loader(asked(), cuda=False) == "peft"
    if not torch.cuda.is_available():
        with pytest.raises(TrainError, match="trainer='unsloth' needs an NVIDIA GPU"):
            load_with_lora(model_path, asked(trainer="unsloth"), CPU)


@pytest.mark.skipif(importlib.util.find_spec("unsloth") is not None, reason="Unsloth is installed here")
def test_without_the_package_the_install_line_is_said() -> None:
    with pytest.raises(TrainError, match=r"lacks; run 'woodshed engine install --unsloth'.* -m pip install unsloth=="):
        choose_loader(asked(trainer="unsloth"), cuda=True)

    assert choose_loader(asked(), cuda=True) == "peft"


def test_on_a_gpu_auto_takes_unsloth_where_it_is_installed(unsloth: Any) -> None:
    assert choose_loader(asked(), cuda=True) == "unsloth"
    assert choose_loader(asked(load_in_4bit=True), cuda=True) == "unsloth"
    assert choose_loader(asked(trainer="peft"), cuda=True) == "peft"


def test_four_bits_without_unsloth_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="load_in_4bit=True needs Unsloth, and trainer is 'peft'"):
        asked(trainer="peft", load_in_4bit=True)


def test_unsloth_is_asked_for_the_model_and_lora_of_the_settings(
    model_path: str, unsloth: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "choose_loader", lambda settings, cuda: "unsloth")
    lora = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "v_proj"))
    model = load_with_lora(model_path, asked(lora=lora, load_in_4bit=True, seed=3), CPU)
    loaded, adapted = unsloth

    assert [c["called"] for c in unsloth] == ["from_pretrained", "get_peft_model"]
    assert (loaded["model_name"], loaded["load_in_4bit"], loaded["max_seq_length"]) == (model_path, True, 2048)
    assert (loaded["dtype"], loaded["fast_inference"], loaded["random_state"]) == (torch.float32, False, 3)
    assert (adapted["r"], adapted["lora_alpha"], adapted["target_modules"]) == (4, 8, ["q_proj", "v_proj"])
    assert loaded["use_gradient_checkpointing"] is adapted["use_gradient_checkpointing"] is False
    assert model.peft_config["default"].r == 4


def test_unsloth_that_cannot_be_imported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unsloth.py").write_text("raise NotImplementedError('no accelerator')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(TrainError, match=r"cannot be imported \(NotImplementedError: no accelerator\)"):
        import_loader(asked(trainer="unsloth"))


def test_unsloth_comes_before_transformers_in_the_trainers_process() -> None:
    code = (
        "import sys\nfrom woodshed.engine.trainer import backend, worker\n"
        "print([n for n in ('transformers', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="needs Unsloth and a CUDA device")
def test_unsloth_takes_every_parameter_named_and_trains_as_peft_does(model_path: str) -> None:
    from tiny_trainer import SESSIONS, numbered
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    from woodshed.engine.trainer.batch import build_batch
    from woodshed.engine.trainer.policy import LoraPolicy
    from woodshed.engine.trainer.step import StepRunner
    from woodshed.types import LossSettings

    assert {"model_name", "load_in_4bit", "fast_inference"} <= set(
        inspect.signature(FastLanguageModel.from_pretrained).parameters
    )
    batch = build_batch(numbered(1), SESSIONS)
    norms = []
    for trainer in ("peft", "unsloth"):
        runner = StepRunner(LoraPolicy(model_path, asked(trainer=trainer, loss=LossSettings(drift_stop=1e9))))
        norms.append(runner.take(batch, 0)["grad_norm"])

    assert norms[1] == pytest.approx(norms[0], rel=0.1)
