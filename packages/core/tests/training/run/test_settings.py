"""A run asked for with other settings: every field that changed is named, with both values and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.training.run.store import RunStore


def _settings(policy: woodshed.Policy | None = None, **config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = woodshed.TrainConfig(**config)
    policy = policy or woodshed.Policy("m")
    return {"policy": policy.model_dump(mode="json"), "config": settings.identity()}, settings.limits()


def _claim(folder: Path, settings: tuple[dict[str, Any], dict[str, Any]]) -> None:
    store = RunStore(folder)
    try:
        store.claim(*settings)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (_settings(), _settings(seed=3), "config.seed: 0 → 3"),
        (
            _settings(),
            _settings(optimizer=woodshed.OptimizerSettings(learning_rate=1e-3)),
            f"config.optimizer.learning_rate: {woodshed.OptimizerSettings().learning_rate} → 0.001",
        ),
        (
            _settings(),
            _settings(woodshed.Policy("m", lora=woodshed.LoraSettings(rank=4))),
            f"policy.lora.rank: {woodshed.LoraSettings().rank} → 4",
        ),
        (_settings(), _settings(woodshed.Policy("n")), 'policy.model: "m" → "n"'),
        (({"a": {"b": [1] * 99}}, {}), ({"a": {"b": [2]}}, {}), "a.b: [1, 1, 1, 1"),
        (({"a": 1}, {}), ({"b": None}, {}), "a: 1 → (not set)"),
    ],
)
def test_a_changed_setting_is_named_with_both_values(tmp_path: Path, old: Any, new: Any, line: str) -> None:
    _claim(tmp_path, old)
    before = (tmp_path / "config.json").read_bytes()

    with pytest.raises(woodshed.ConfigError) as refused:
        _claim(tmp_path, new)

    message = str(refused.value)
    assert f"\n  {line}" in message
    assert message.count("→") == (2 if line.endswith("(not set)") else 1)
    assert "holds an unfinished run" in message and "--run-dir" in message and "--fresh" in message
    assert (tmp_path / "config.json").read_bytes() == before


def test_what_may_change_on_resume_is_listed_and_may(tmp_path: Path) -> None:
    _claim(tmp_path, _settings())

    _claim(tmp_path, _settings(steps=99, max_concurrency=2, loss=woodshed.LossSettings(drift_stop=0.7)))
    with pytest.raises(woodshed.ConfigError) as refused:
        _claim(tmp_path, _settings(seed=1))

    listed = str(refused.value).split("may change when a run is resumed: ")[1].split(";")[0].split(", ")
    assert {"config.steps", "config.max_concurrency", "config.rollout_timeout_s", "config.max_staleness"} < set(listed)
    assert "config.loss.drift_stop" in listed and "config.seed" not in listed


def test_a_run_from_before_steps_might_change_is_resumed(tmp_path: Path) -> None:
    settings, limits = _settings()
    steps = limits.pop("steps")
    old = {**settings, "config": {**settings["config"], "steps": steps}, "limits": limits}
    (tmp_path / "config.json").write_text(json.dumps(old))

    _claim(tmp_path, _settings(steps=7))

    assert json.loads((tmp_path / "config.json").read_text())["limits"]["steps"] == 7


def test_a_finished_run_with_other_settings_is_called_finished(tmp_path: Path) -> None:
    _claim(tmp_path, _settings())
    store = RunStore(tmp_path)
    store.save_fact("finished", True)

    with pytest.raises(woodshed.ConfigError, match=r"holds a finished run with other settings:\n  config.seed: 0 → 1"):
        store.claim(*_settings(seed=1))
    store.close()
