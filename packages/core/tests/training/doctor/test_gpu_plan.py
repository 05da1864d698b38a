"""The doctor plans how vLLM and the trainer share a GPU: from figures of model and card, never by trying."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from woodshed import Policy
from woodshed.training.doctor.gpu import check_gpu, told
from woodshed.training.doctor.gpu_plan import GpuPlan, figures_of, plan
from woodshed.types import Gpu

NAMES = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads")
QWEN: dict[str, dict[str, Any]] = {
    size: {**dict(zip(NAMES, sizes, strict=True)), "vocab_size": words, "tie_word_embeddings": tied}
    for size, sizes, words, tied in (
        ("0.5B", (896, 24, 4864, 14, 2), 151_936, True),
        ("3B", (2048, 36, 11_008, 16, 2), 151_936, True),
        ("7B", (3584, 28, 18_944, 28, 4), 152_064, False),
    )
}
CARD = Gpu(name="a card of 24 GB", total_mb=24_564, free_mb=24_100)


def planned(size: str, sharing: Any, **card: float) -> GpuPlan:
    figures = figures_of(QWEN[size], lora_rank=16)
    return plan(figures, **{"total_mb": CARD.total_mb, "free_mb": CARD.free_mb, **card}, sharing=sharing)


def test_the_figures_of_a_model_are_those_of_its_weights() -> None:
    # Qwen2.5 has 494, 3,086 and 7,616 million parameters, biases included.
    millions = [figures_of(QWEN[size], lora_rank=16).weights_mb * 2**20 / 2 / 1e6 for size in QWEN]
    small = figures_of(QWEN["0.5B"], lora_rank=16)

    assert millions == pytest.approx([494, 3086, 7616], rel=1e-3)
    assert small.kv_mb_per_token * 2**20 == 2 * 2 * 24 * 128
    assert small.lora_mb * 2**20 / 2 == 24 * 16 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))


def test_24_gb_holds_a_small_model_either_way_a_middling_one_better_by_turns_and_7b_only_so() -> None:
    fits = {(size, way): planned(size, way).fits(4096) for size in QWEN for way in ("split", "sleep")}

    assert fits == {
        ("0.5B", "split"): True, ("0.5B", "sleep"): True,
        ("3B", "split"): False, ("3B", "sleep"): True,
        ("7B", "split"): False, ("7B", "sleep"): True,
    }  # fmt: skip


@pytest.mark.parametrize("size", list(QWEN))
@pytest.mark.parametrize("sharing", ["split", "sleep"])
def test_no_plan_gives_away_more_than_is_free(size: str, sharing: str) -> None:
    figures = figures_of(QWEN[size], lora_rank=16)
    for free in (4000.0, 12_000.0, 24_100.0, 80_000.0):
        one = planned(size, sharing, free_mb=free, total_mb=max(free, 24_564))
        if not one.gpu_memory_fraction:
            assert free < 2.2 * figures.weights_mb + 5000  # no plan: there is no room for one
            continue
        vllm = one.gpu_memory_fraction * max(free, 24_564)
        trainer = figures.weights_mb + one.step_mb
        taken = max(vllm, trainer) if sharing == "sleep" else vllm + trainer

        assert taken <= free
        assert vllm >= figures.weights_mb


def test_a_step_by_turns_has_more_room_than_a_split_leaves() -> None:
    for size in ("0.5B", "3B"):
        split, sleep = planned(size, "split"), planned(size, "sleep")
        assert sleep.step_mb > split.step_mb and sleep.kv_tokens >= split.kv_tokens


def folder(tmp_path: Path, size: str) -> str:
    (tmp_path / "config.json").write_text(json.dumps(QWEN[size]))
    return str(tmp_path)


def test_the_doctor_prints_both_plans_and_names_the_setting_that_fits(tmp_path: Path) -> None:
    finding = check_gpu(Policy(folder(tmp_path, "7B"), max_model_len=2048), [CARD], "split")

    assert finding.status == "warn"
    assert "a card of 24 GB, 24,100 of 24,564 MiB free" in finding.found
    assert "split: the model does not fit" in finding.found and told(planned("7B", "sleep")) in finding.found
    assert "gpu_sharing='sleep'" in finding.advice and "2,048 tokens" in finding.advice
    assert check_gpu(Policy(folder(tmp_path, "7B"), max_model_len=2048), [CARD], "sleep").status == "pass"


def test_what_fits_in_no_way_is_said_so_and_what_is_unknown_is_not_guessed(tmp_path: Path) -> None:
    too_long = check_gpu(Policy(folder(tmp_path, "7B"), max_model_len=32_768), [CARD], "split")
    unknown = check_gpu(Policy("someone/never-fetched"), [CARD], "split")
    (tmp_path / "config.json").write_text("{}")
    strange = check_gpu(Policy(str(tmp_path)), [CARD], "split")

    assert (too_long.status, "neither" in too_long.advice) == ("warn", True)
    assert [(f.status, "no plan" in f.found) for f in (unknown, strange)] == [("pass", True)] * 2


def test_a_full_card_has_no_room() -> None:
    full = planned("0.5B", "sleep", free_mb=1500.0)

    assert full.gpu_memory_fraction == 0 and not full.fits(1)
    assert "does not fit" in told(full)
    assert told(replace(full, gpu_memory_fraction=0.5)).startswith("sleep: gpu_memory_fraction 0.5")
