"""Settings that cannot work are refused before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from woodshed.engine.client.config import (
    EngineConfig,
    ServedModel,
    Trainers,
    check_config,
    check_model,
    check_trainer,
    to_models,
)
from woodshed.engine.client.local import Engine
from woodshed.errors import ConfigError
from woodshed.training.config import Policy


def model_folder(tmp_path: Path, name: str = "model") -> Path:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def config(tmp_path: Path, **extra: object) -> EngineConfig:
    model = ServedModel(name="policy", path=str(model_folder(tmp_path)))
    return EngineConfig.model_validate({"home": tmp_path / "home", "models": (model,)} | extra)


def test_off_loopback_a_key_is_required(tmp_path: Path) -> None:
    wanted = config(tmp_path, host="0.0.0.0")
    with pytest.raises(ConfigError, match=r"'0\.0\.0\.0' is reachable from other machines and no api_key"):
        check_config(wanted)

    assert check_config(wanted.model_copy(update={"api_key": "k"})).host == "0.0.0.0"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    checked = check_config(EngineConfig(home=Path("run"), models=(ServedModel(name="policy", path="model"),)))

    assert (checked.home, checked.models[0].path) == (tmp_path / "run", str(tmp_path / "model"))


def test_home_is_written_as_a_tilde_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model_folder(tmp_path)
    (tmp_path / "my.jinja").touch()
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora/adapter_config.json").write_text("{}")

    policy = check_model(Policy("~/model", chat_template="~/my.jinja").served())
    judge = check_model(ServedModel(name="judge", path="~/a.gguf", adapter="~/lora"))

    assert (policy.path, policy.chat_template) == (str(tmp_path / "model"), str(tmp_path / "my.jinja"))
    assert (judge.path, judge.adapter) == (str(tmp_path / "a.gguf"), str(tmp_path / "lora"))


def test_a_chat_template_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path=str(model_folder(tmp_path)), chat_template="~/no-such.jinja")
    with pytest.raises(ConfigError, match=r"'policy': there is no chat template '~/no-such\.jinja'"):
        check_model(model)


def test_a_policy_passes_on_how_it_is_served_and_only_what_was_set() -> None:
    settings: dict[str, Any] = {
        "max_model_len": 4096, "kv_cache_gib": 1.5, "dtype": "bfloat16", "chat_template": "a.jinja",
        "tool_call_parser": None, "reasoning_parser": "qwen3", "replicas": 2, "tensor_parallel": 2,
    }  # fmt: skip
    plain, full = Policy("m").served(), Policy("m", **settings).served()

    assert {name: getattr(full, name) for name in settings} == settings
    assert settings.keys() <= full.model_fields_set
    assert not settings.keys() & plain.model_fields_set
    assert plain.tool_call_parser == "auto"
    with pytest.raises(ConfigError, match=r"Policy\.dtype: .*found 'int3'"):
        Policy("m", dtype="int3")


def test_a_folder_without_a_model_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no config\.json \(it holds \['notes\.txt'\]\)"):
        check_model(ServedModel(name="policy", path=str(tmp_path)))


def test_a_hub_name_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ServedModel(name="policy", path="Qwen/Qwen2.5-3B-Instruct")

    assert check_model(model) == model


def test_no_model_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model to serve"):
        check_config(config(tmp_path, models=()))
    twice = config(tmp_path, models=(ServedModel(name="a", path="x"), ServedModel(name="a", path="y")))
    with pytest.raises(ConfigError, match=r"\['a'\] are named more than once"):
        check_config(twice)


def test_models_are_named_by_their_key() -> None:
    found = to_models({"judge": "./j", "policy": ServedModel(name="other", path="./p", trainable=True)})

    assert [(model.name, model.path, model.trainable) for model in found] == [
        ("judge", "./j", False),
        ("policy", "./p", True),
    ]


def test_unsloth_without_a_gpu_is_refused_before_an_engine_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("woodshed.engine.client.config.has_gpu", lambda: False)
    with pytest.raises(ConfigError, match=r"trainer='unsloth' needs an NVIDIA GPU.*use trainer='auto'"):
        check_trainer("unsloth", False)
    with pytest.raises(ConfigError, match="load_in_4bit=True needs an NVIDIA GPU"):
        check_trainer("auto", True)

    check_trainer("auto", False)


def test_models_that_leave_the_trainer_no_room_on_the_gpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("woodshed.engine.client.config.gpu_ids", lambda: ("0",))
    path = str(model_folder(tmp_path))

    def models(*shares: float, trainable: bool = True) -> tuple[ServedModel, ...]:
        return tuple(
            ServedModel(name=f"m{k}", path=path, gpu_memory_fraction=share, trainable=trainable and k == 0)
            for k, share in enumerate(shares)
        )

    with pytest.raises(ConfigError, match=r"add up to 0\.95 \(m0 0\.5, m1 0\.45\); at most 0\.9 .*the trainer's"):
        check_config(config(tmp_path, models=models(0.5, 0.45)))
    with pytest.raises(ConfigError, match=r"add up to 1\.2"):
        check_config(config(tmp_path, models=models(0.4, 0.4, 0.4, trainable=False)))

    check_config(config(tmp_path, models=models(0.5, 0.4)))
    check_config(config(tmp_path, models=models(0.5, 0.5, trainable=False)))


def test_trainers_that_cannot_be_are_refused_before_an_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"Trainers\.count: .*; found 0"):
        Engine.local(trainers=0)
    with pytest.raises(ConfigError, match=r"shard_base=True splits the base model.*set trainers=2 or more"):
        Engine.local(shard_base=True)
    monkeypatch.setattr("woodshed.engine.client.config.gpu_ids", lambda: ("0", "1"))
    path = str(model_folder(tmp_path))
    policy = ServedModel(name="policy", path=path, trainable=True, gpu_memory_fraction=0.5)
    judge = ServedModel(name="judge", path=path, replicas=2, gpu_memory_fraction=0.48)
    two = Trainers(count=2)
    with pytest.raises(ConfigError, match="trainers is 3, each needs a GPU of its own, and this machine has 2"):
        check_config(config(tmp_path, trainers=Trainers(count=3)))
    with pytest.raises(ConfigError, match=r"on GPU 1 of 2; at most 0\.9 can be given away, the rest is the trainer's"):
        check_config(config(tmp_path, models=(policy, judge), trainers=two))

    check_config(config(tmp_path, models=(policy, judge)))  # a single trainer takes GPU 0
    check_config(config(tmp_path, trainers=two))
    assert Engine.local(trainers=2, shard_base=True).trainers == Trainers(count=2, shard_base=True)


def test_without_a_gpu_nothing_sleeps_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("woodshed.engine.client.config.has_gpu", lambda: False)
    engine = Engine.local(gpu_sharing="sleep", models={"judge": str(model_folder(tmp_path))})
    policy = Policy(str(model_folder(tmp_path))).served()

    with pytest.raises(ConfigError, match=r"gpu_sharing='sleep' \(models \['policy', 'judge'\]\) needs an NVIDIA GPU"):
        engine._config([policy], tmp_path)


def test_a_sleeping_engine_shares_every_model_by_turns_and_may_take_the_whole_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("woodshed.engine.client.config.has_gpu", lambda: True)
    monkeypatch.setattr("woodshed.engine.client.config.gpu_ids", lambda: ("0", "1"))
    policy = Policy(str(model_folder(tmp_path))).served().model_copy(update={"gpu_memory_fraction": 0.92})

    asleep = Engine.local(gpu_sharing="sleep")._config([policy], tmp_path)
    with pytest.raises(ConfigError, match=r"add up to 0\.92"):
        Engine.local()._config([policy], tmp_path)
    with pytest.raises(ConfigError, match=r"with one trainer, and trainers is 2"):
        Engine.local(gpu_sharing="sleep", trainers=2)._config([policy], tmp_path)

    assert [model.gpu_sharing for model in asleep.models] == ["sleep"]
