"""Promises of a forward mode that is not the fastest: it is never taken in silence, nor for rounding alone."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_trees import model as random_model
from tiny_trainer import POLICY, SESSIONS, numbered
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3Config

from woodshed.engine.trainer import forward_mode
from woodshed.engine.trainer.forward_mode import _probed, choose_forward_mode
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.upcast import upcast
from woodshed.engine.trainer.worker_protocol import Start, Step

CPU = torch.device("cpu")
VOCABULARY = 97


def deep(layers: int) -> Any:
    """Return a deep bfloat16 model whose rounding alone is above every fixed tolerance."""
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256, initializer_range=0.4,
    )  # fmt: skip
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    of = get_peft_model(AutoModelForCausalLM.from_config(config), lora).eval()
    for name, parameter in of.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.bfloat16()
    return of


def spoiled(of: Any, factor: float) -> Any:
    """Return a model whose MLPs compute something else than woodshed's decoder would."""
    for layer in of.get_base_model().model.layers:
        mlp = layer.mlp.forward
        layer.mlp.forward = lambda x, mlp=mlp: factor * mlp(x)
    return of


def test_rounding_of_many_layers_costs_no_faster_mode() -> None:
    of = deep(48)
    with torch.no_grad(), forward_mode._noisy(of):
        tree, rows = (_probed(of, VOCABULARY, mode, CPU) for mode in ("tree", "rows"))

    assert max(abs(a - b) for a, b in zip(tree, rows, strict=True)) > 0.1
    assert choose_forward_mode(of, VOCABULARY, CPU).mode == "tree"


def test_half_precision_hides_no_wrong_mode_and_the_disagreement_is_told() -> None:
    choice = choose_forward_mode(spoiled(deep(4), 0.5), VOCABULARY, CPU)
    (left,) = choice.left

    assert (choice.mode, left.mode) == ("dense", "tree")
    assert "nats from those in fp32" in left.reason and "those of the model's own pass" in left.reason


def test_disagreement_and_its_limit_are_told_in_fp32() -> None:
    choice = choose_forward_mode(spoiled(copy.deepcopy(random_model("qwen3")), 0.5), 61, CPU)

    assert choice.mode == "dense"
    assert "nats from those of the model's own pass, 0.0001 are allowed" in choice.left[0].reason
    assert "a micro-batch holds at most 1,024 of them instead of 16,384" in str(choice.warning())


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nof this shape"), ImportError("no kernel"), KeyError("no")])
def test_error_of_a_mode_is_told_by_its_first_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    plain = forward_mode.forward_logprobs

    def failing(of: Any, batch: Any, mode: str, **rest: Any) -> Any:
        if mode != "rows":
            raise error
        return plain(of, batch, mode, **rest)

    monkeypatch.setattr(forward_mode, "forward_logprobs", failing)
    choice = choose_forward_mode(random_model("llama"), 61, CPU)
    warning = str(choice.warning())

    assert choice.mode == "rows"
    assert f"'tree' and 'dense' cannot be used: {type(error).__name__}: " in warning
    assert "no" in warning and "of this shape" not in warning
    assert "every rollout's own tokens are computed instead of the shared tree" in warning


@pytest.mark.parametrize("error", [RuntimeError("no backward kernel"), None], ids=["fails", "is not finite"])
def test_mode_whose_backward_pass_fails_is_left(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    plain = forward_mode.forward_logprobs

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, to_x: torch.Tensor) -> torch.Tensor:
            if error is not None:
                raise error
            return to_x * torch.nan

    def broken(of: Any, batch: Any, mode: str, **rest: Any) -> Any:
        out = plain(of, batch, mode, **rest)
        return replace(out, logprobs_M=Broken.apply(out.logprobs_M)) if mode == "tree" else out

    monkeypatch.setattr(forward_mode, "forward_logprobs", broken)
    monkeypatch.setattr(forward_mode, "_WITH_BACKWARD", ("cpu",))
    of = copy.deepcopy(random_model("llama"))
    for parameter in of.parameters():
        parameter.grad = None
    choice = choose_forward_mode(of, 61, CPU)

    assert choice.mode == "dense"
    assert choice.left[0].reason == (
        "ValueError: the gradient is not finite" if error is None else "RuntimeError: no backward kernel"
    )
    assert all(parameter.grad is None for parameter in of.parameters())


def test_what_the_model_itself_rules_out_is_told() -> None:
    of = copy.deepcopy(random_model("llama"))
    of.config.sliding_window = 64

    assert "'tree' and 'dense' cannot be used: the model has a sliding window of 64 tokens" in str(
        choose_forward_mode(of, 61, CPU).warning()
    )


def test_model_without_a_pass_in_fp32_is_compared_with_itself_and_says_so() -> None:
    of = spoiled(deep(4), 0.2)

    def only_half(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0].dtype == torch.float32:
            raise RuntimeError("kernel takes bf16")

    of.get_base_model().model.norm.register_forward_pre_hook(only_half)
    reason = choose_forward_mode(of, VOCABULARY, CPU).left[0].reason

    assert "0.1 are allowed, as the model cannot be run in fp32 (RuntimeError: kernel takes bf16)" in reason


def test_pass_in_fp32_is_that_of_the_model_in_fp32_and_leaves_it_as_it_was() -> None:
    of = deep(6)
    before = {name: p.data for name, p in of.named_parameters()}
    whole = copy.deepcopy(of).float()
    ids = torch.arange(30)[None]
    with torch.no_grad(), upcast(of):
        found = of(input_ids=ids).logits
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
    with pytest.raises(IndexError), upcast(of):
        of(input_ids=torch.full((1, 4), 5000))

    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(p.data is before[name] or torch.equal(p.data, before[name]) for name, p in of.named_parameters())
    assert {p.dtype for p in of.parameters()} == {torch.float32, torch.bfloat16}
    assert of(input_ids=ids).logits.dtype == torch.bfloat16


def of_modes(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "forward mode" in record.message]


def test_run_learns_the_mode_why_and_how_many_times_the_tokens_it_costs_once(
    model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forward_mode, "_why_not_packed", lambda config: "the model looks back only so far")
    with caplog.at_level(logging.WARNING, "woodshed.trainer"):
        run = PolicyRun(Start(model_path=model_path, home=str(tmp_path), policy=POLICY, parent_pid=0))
        reports = [run.step(Step(request=numbered(k), sessions=SESSIONS)) for k in range(2)]

    assert run.state.forward_mode == "rows"
    assert "the model looks back only so far" in run.state.warnings[0]
    (told,) = reports[0].warnings
    metrics = reports[0].metrics
    shared = float(told.split(" instead of ")[2].split(",")[0].replace(",", ""))
    assert f"{metrics['packed_tokens'] / shared:.1f}× the tokens" in told
    assert reports[1].warnings == ()
    assert of_modes(caplog) == [*run.state.warnings, told]


def test_fastest_mode_is_not_warned_of(model_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "woodshed.trainer"):
        run = PolicyRun(Start(model_path=model_path, home=str(tmp_path), policy=POLICY, parent_pid=0))
        report = run.step(Step(request=numbered(0), sessions=SESSIONS))

    assert (run.state.forward_mode, run.state.warnings, report.warnings) == ("tree", (), ())
    assert of_modes(caplog) == []
