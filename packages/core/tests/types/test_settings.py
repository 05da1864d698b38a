"""Settings that cannot be used are refused with their field, what was found and what was expected."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import woodshed
from woodshed.engine.client.config import EngineConfig
from woodshed.mcp import Generator, Limits
from woodshed.training.sft.dataset import Choice
from woodshed.types import OpenPolicy, Settings

RECORDED = {"Group", "Judgement", "Message", "ModelCall", "Reading", "Score", "ToolCall", "Trajectory"}
"""Public records that are values of a run, and no settings."""


def test_every_public_record_is_settings_or_a_value_of_a_run() -> None:
    public = {n: v for n in woodshed.__all__ if inspect.isclass(v := getattr(woodshed, n)) and issubclass(v, BaseModel)}

    assert {n for n, v in public.items() if not issubclass(v, Settings)} == RECORDED


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: woodshed.LoraSettings(rank=0), r"LoraSettings\.rank: .*greater than or equal to 1; found 0$"),
        (lambda: woodshed.LoraSettings(rank="big"), r"LoraSettings\.rank: .*valid integer.*; found 'big'$"),
        (lambda: woodshed.LoraSettings(r=8), r"LoraSettings\.r: there is no such setting; found r=8; expected one"),
        (lambda: woodshed.TrainConfig(grup_size=8), r"found grup_size=8; did you mean 'group_size'\?"),
        (lambda: woodshed.OptimizerSettings(learning_rate=-1), r"OptimizerSettings\.learning_rate: .*than 0; found -1"),
        (lambda: woodshed.LossSettings(preset="ppo"), r"LossSettings\.preset: .*'grpo'.*; found 'ppo'"),
        (lambda: woodshed.ServedModel(name="a b", path="p"), r"ServedModel\.name: .*; found 'a b'"),
        (lambda: woodshed.ServedModel(name="a"), r"ServedModel\.path: is required and was not given"),
        (lambda: woodshed.Policy("m", lora={"rank": 0}), r"^LoraSettings\.rank: .*; found 0$"),
        (lambda: woodshed.Policy(7), r"Policy\.model: .*valid string; found 7"),
        (lambda: woodshed.Policy("m", trainer="peft", load_in_4bit=True), r"^Policy: load_in_4bit=True needs Unsloth"),
        (lambda: woodshed.SftConfig(epochs=0), r"SftConfig\.epochs: .*; found 0"),
        (lambda: EngineConfig(home="h", models=(), port=70000), r"EngineConfig\.port: .*; found 70000"),
        (lambda: woodshed.Judge("m", timeout_s="fast"), r"Judge\.timeout_s is 'fast'; expected a number, at least 0"),
        (lambda: woodshed.Judge("m", max_retries=1.5), r"Judge\.max_retries is 1\.5; expected a whole number"),
        (lambda: woodshed.Judge("m", max_tokens=0), r"Judge\.max_tokens is 0; expected at least 1"),
        (lambda: woodshed.Judge(None), r"Judge\.model is None; expected a model's name"),
        (lambda: Generator("m", temperature=-1), r"Generator\.temperature is -1; expected at least 0"),
        (lambda: woodshed.Ruler("m", permutations="2"), r"Ruler\.permutations is '2'; expected a whole number"),
        (lambda: woodshed.Ruler("m", tolerance=1.0), r"Ruler\.tolerance is 1\.0; expected at least 0, below 1"),
        (lambda: woodshed.Ruler("engine/m", max_cost_usd=float("nan")), r"max_cost_usd is nan; expected more than 0"),
        (lambda: woodshed.Evaluation(scenarios="abc", measure=len), r"Evaluation\.scenarios is a str; expected a list"),
        (lambda: woodshed.Evaluation(scenarios=["a"], measure=1.0), r"measure is 1\.0; expected a function"),
        (lambda: Choice(top=1.5), r"Choice\.top is 1\.5; expected a whole number, at least 1"),
        (lambda: Limits(call_s=None), r"Limits\.call_s is None; expected a number, more than 0"),
    ],
)  # fmt: skip
def test_a_bad_setting_names_its_field_what_was_found_and_what_was_expected(make: Any, said: str) -> None:
    with pytest.raises(woodshed.ConfigError, match=f"(?m){said}") as refused:
        make()

    assert "errors.pydantic.dev" not in str(refused.value)


def test_every_bad_setting_is_named_in_a_line_of_its_own() -> None:
    with pytest.raises(woodshed.ConfigError) as refused:
        woodshed.LoraSettings(rank=0, alpha=0)

    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "LoraSettings.rank",
        "LoraSettings.alpha",
    ]


def test_settings_are_not_changed_once_they_are_made() -> None:
    config = woodshed.TrainConfig()

    with pytest.raises(woodshed.ConfigError, match=r"TrainConfig\.steps cannot be changed to 3.*TrainConfig\(steps="):
        config.steps = 3  # type: ignore[misc]


def test_a_request_with_bad_settings_is_still_a_validation_error_for_the_server_that_reads_it() -> None:
    with pytest.raises(ValidationError, match=r"LoraSettings\.rank"):
        OpenPolicy.model_validate_json(json.dumps({"name": "p", "lora": {"rank": 0}}))
