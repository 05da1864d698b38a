"""A real small training, exported in each form: what is loaded again is the policy that the trainer holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_trainer import LOSS, SESSIONS, numbered
from transformers import AutoModelForCausalLM, AutoTokenizer

from woodshed.engine.export.log_probs import furthest, log_probs
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import ExportError
from woodshed.export import export_run
from woodshed.training.run.store import RunStore
from woodshed.types import OpenPolicy, OptimizerSettings

BASE = Path(__file__).parents[4] / "tiny_world/src/woodshed_tiny_world/weights/policy"
TEXTS = ((5, 99, 1200, 7, 640, 33, 2, 18), tuple(range(40, 140)))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[torch.Tensor]]:
    """Train two real steps in a run's folder; return it, and the log-probabilities of the policy in the trainer."""
    monkeypatch.setenv("WOODSHED_ENGINE_PYTHON", sys.executable)
    folder = tmp_path / "runs" / "answer"
    store = RunStore(folder)
    policy = OpenPolicy(name="policy", optimizer=OptimizerSettings(learning_rate=2e-2, warmup_steps=0), loss=LOSS)
    home = folder / "engine" / "policies" / "policy" / store.run_id()
    run = PolicyRun(Start(model_path=str(BASE), home=str(home), policy=policy, parent_pid=0))
    for number in range(2):
        report = run.step(Step(request=numbered(number), sessions=SESSIONS))
        row = {"step": number, "version": report.version, "trained": report.trained, "rollouts": 8, "masked": 0}
        store.save_step(number, report, row)
    store.claim({"policy": {"model": str(BASE)}, "scenarios": {"ids": ["a", "b"]}, "config": {}, "reward": "r"})
    store.close()
    return folder, log_probs(run.policy.model, TEXTS)


def test_the_peft_folder_is_the_policy_on_its_base(trained: tuple[Path, list[torch.Tensor]], tmp_path: Path) -> None:
    folder, policy = trained
    done = export_run(folder, to=tmp_path / "lora")
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    bare = log_probs(base, TEXTS)
    loaded = log_probs(PeftModel.from_pretrained(base, tmp_path / "lora"), TEXTS)

    assert (done.version, done.step, done.base) == (2, 2, "policy")
    assert furthest(policy, loaded) < 1e-4
    assert furthest(policy, bare) > 0.1


def test_the_merged_model_is_the_policy_and_says_no_path(
    trained: tuple[Path, list[torch.Tensor]], tmp_path: Path
) -> None:
    folder, policy = trained
    done = export_run(folder, to=tmp_path / "merged", merged="float32")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")

    assert furthest(policy, log_probs(loaded, TEXTS)) < 1e-4
    assert [(check.form, check.log_probs < 1e-4) for check in done.checks] == [("merged, float32", True)]
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(BASE).chat_template
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    for path in (tmp_path / "merged").iterdir():
        content = path.read_bytes()
        assert not [p for p in (tmp_path, BASE.parent, Path.home()) if f"{p}/".encode() in content], path.name


def test_a_gguf_file_that_would_not_be_the_policy_is_refused_and_nothing_is_left(
    trained: tuple[Path, list[torch.Tensor]], tmp_path: Path
) -> None:
    folder, _ = trained
    with pytest.raises(ExportError, match="no name for the way in which this tokenizer splits text"):
        export_run(folder, to=tmp_path / "out" / "gguf", gguf="Q8_0")

    assert list((tmp_path / "out").iterdir()) == []
