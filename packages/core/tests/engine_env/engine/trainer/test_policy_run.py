"""Promises of a policy's run, in one process: versions, checkpoints, resuming and steps taken once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import POLICY, SESSIONS, numbered, request

from woodshed.engine.trainer import Trainer
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.types import LoraSettings, OpenPolicy, StepReport

Weights = dict[str, torch.Tensor]


def run(model_path: str, home: Path, policy: OpenPolicy = POLICY) -> PolicyRun:
    return PolicyRun(Start(model_path=model_path, home=str(home), policy=policy, parent_pid=0))


def step(of: PolicyRun, number: int) -> StepReport:
    return of.step(Step(request=numbered(number), sessions=SESSIONS))


def adapter(home: Path, version: int) -> Weights:
    return load_file(home / "checkpoints" / f"{version:05d}" / "adapter" / "adapter_model.safetensors")


def same(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_steps_make_versions_that_vllm_can_load(model_path: str, tmp_path: Path) -> None:
    of = run(model_path, tmp_path)
    begun = of.state
    first, second = step(of, 1), step(of, 2)

    assert (begun.name, begun.version, begun.steps) == ("p", 0, ())
    assert (first.version, first.trained, second.version) == (1, True, 2)
    assert first.metrics["trained_tokens"] == 80
    assert first.metrics["train_tokens_per_s"] == pytest.approx(80 / first.metrics["step_seconds"])
    assert first.metrics["logprob_drift_max"] >= first.metrics["logprob_drift_mean"] > 0
    assert all(math.isfinite(figure) for figure in first.metrics.values())
    config = json.loads((tmp_path / "checkpoints" / "00001" / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (model_path, 16, 32)
    assert all(not t.any() for name, t in adapter(tmp_path, 0).items() if "lora_B" in name)
    assert all(t.any() for t in adapter(tmp_path, 1).values())
    assert not same(adapter(tmp_path, 1), adapter(tmp_path, 2))


def test_resumed_run_is_bit_identical_to_one_in_one_piece(model_path: str, tmp_path: Path) -> None:
    straight = run(model_path, tmp_path / "straight")
    for number in (1, 2, 3, 4):
        step(straight, number)
    for number in (1, 2, 3, 4):
        step(run(model_path, tmp_path / "resumed"), number)

    for version in (2, 3, 4):
        assert same(adapter(tmp_path / "straight", version), adapter(tmp_path / "resumed", version))


def test_repeated_step_returns_the_first_report_and_trains_nothing(model_path: str, tmp_path: Path) -> None:
    of = run(model_path, tmp_path)
    first = step(of, 1)
    again = of.step(Step(request=request("s1", {"a0": -5.0}), sessions=SESSIONS))
    resumed = run(model_path, tmp_path)

    assert again == first
    assert resumed.state.steps == ("s1",)
    assert step(resumed, 1) == first
    assert not (tmp_path / "checkpoints" / "00002").exists()


def test_what_is_not_trainable_changes_nothing_and_is_remembered(model_path: str, tmp_path: Path) -> None:
    asked = Step(request=request("s1", {"a0": math.nan, "a1": 0.0, "gone": 1.0}), sessions=SESSIONS)
    report = run(model_path, tmp_path).step(asked)
    resumed = run(model_path, tmp_path)

    assert (report.trained, report.version) == (False, 0)
    assert report.quarantined == {"a0": "advantage is nan", "gone": "no sealed session"}
    assert not (tmp_path / "checkpoints" / "00001").exists()
    assert resumed.state.steps == ("s1",)
    assert resumed.step(asked) == report


def test_step_after_a_failed_one_is_as_if_it_had_not_been(model_path: str, tmp_path: Path) -> None:
    of = run(model_path, tmp_path / "failed")
    with pytest.raises(TrainError, match="the loss is"):
        of.step(Step(request=request("bad", {"a0": 1e300}), sessions=SESSIONS))
    step(of, 1)
    step(run(model_path, tmp_path / "other"), 1)

    assert of.state.steps == ("s1",)
    assert same(adapter(tmp_path / "failed", 1), adapter(tmp_path / "other", 1))


def test_damaged_checkpoint_is_named_and_left_and_without_it_the_step_is_made_again(
    model_path: str, tmp_path: Path
) -> None:
    of = run(model_path, tmp_path)
    step(of, 1)
    step(of, 2)
    expected = adapter(tmp_path, 2)
    (tmp_path / "checkpoints" / "00002" / "state.pt").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".00003").mkdir()
    with pytest.raises(TrainError, match=r"00002' cannot be read: state.pt has 4 bytes, expected \d+"):
        run(model_path, tmp_path)
    (tmp_path / "checkpoints" / "00002").rename(tmp_path / "moved away")
    resumed = run(model_path, tmp_path)

    assert resumed.state.version == 1
    assert step(resumed, 2).version == 2
    assert same(adapter(tmp_path, 2), expected)
    assert not (tmp_path / "checkpoints" / ".00003").exists()


def test_the_version_that_a_step_names_is_kept_and_as_many_of_the_newest_as_it_asks_for(
    model_path: str, tmp_path: Path
) -> None:
    of = run(model_path, tmp_path)
    for number in range(1, 5):
        asked = numbered(number).model_copy(update={"keep_checkpoints": 1, "keep_version": 1})
        of.step(Step(request=asked, sessions=SESSIONS))

    assert of.checkpoints.kept() == (1, 4)
    assert of.state.checkpoints == str(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints" / "00001" / "adapter" / "adapter_config.json").exists()
    assert run(model_path, tmp_path).state.version == 4


def test_adapter_of_a_version_not_on_disk_names_those_kept(model_path: str, tmp_path: Path) -> None:
    of = run(model_path, tmp_path)
    for number in range(1, 5):
        step(of, number)
    trainer = Trainer(model_path, tmp_path, POLICY)

    assert trainer.adapter_path(4) == tmp_path / "checkpoints" / "00004" / "adapter"
    with pytest.raises(TrainError, match=r"no checkpoint of version 1 .*kept versions: 2, 3, 4"):
        trainer.adapter_path(1)


def test_other_lora_settings_than_the_checkpoint_are_refused(model_path: str, tmp_path: Path) -> None:
    run(model_path, tmp_path)
    with pytest.raises(TrainError, match=r"was trained with .*rank=16.*rank=4.*is asked for"):
        run(model_path, tmp_path, OpenPolicy(name="p", lora=LoraSettings(rank=4)))


def test_lora_targets_that_the_model_lacks_are_named(model_path: str, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"LoRA targets \['nope'\] do not fit"):
        run(model_path, tmp_path, OpenPolicy(name="p", lora=LoraSettings(targets=("nope",))))


def test_checkpoint_of_a_gpu_goes_on_with_the_optimizer_of_this_device(model_path: str, tmp_path: Path) -> None:
    first = LoraPolicy(model_path, POLICY)
    first.save(tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for saved in state["optimizer"]["param_groups"]:
        saved["fused"] = True
    torch.save(state, tmp_path / "state.pt")
    second = LoraPolicy(model_path, POLICY)
    second.load(tmp_path)

    assert {group["fused"] for group in second.optimizer.param_groups} == {None}
