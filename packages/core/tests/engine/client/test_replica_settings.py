"""Settings of replicas: what is refused before anything starts, and which GPUs each server gets."""

from __future__ import annotations

from typing import Any

import pytest

from woodshed import Policy
from woodshed.engine.client.config import ServedModel, check_split
from woodshed.engine.client.gpus import spread
from woodshed.engine.client.served import check_served
from woodshed.errors import ConfigError
from woodshed.types import ModelHealth, ModelSettings


def model(name: str = "policy", **settings: Any) -> ServedModel:
    return ServedModel(**{"name": name, "path": "owner/model", "trainable": name == "policy", **settings})


@pytest.mark.parametrize("setting", ["replicas", "tensor_parallel"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many", 65])
def test_a_number_of_replicas_that_cannot_be_is_refused_by_name(setting: str, value: Any) -> None:
    for build in (lambda: model(**{setting: value}), lambda: Policy("m", **{setting: value})):
        with pytest.raises(ConfigError, match=rf"\.{setting}: .*{value}"):
            build()


def test_a_model_that_is_served_once_keeps_its_name_and_replicas_are_numbered() -> None:
    assert model().server_names() == ("policy",)
    assert model(replicas=3).server_names() == ("policy#1", "policy#2", "policy#3")


def test_a_run_may_go_on_with_another_number_of_replicas() -> None:
    assert Policy("m", replicas=3, tensor_parallel=2, kernels="plain").identity() == Policy("m").identity()


def test_tensor_parallelism_without_the_gpus_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tensor_parallel is 2, and this machine has no GPU.*use replicas"):
        check_split([model(tensor_parallel=2)], 0)
    with pytest.raises(ConfigError, match=r"'policy': tensor_parallel is 4, and this machine has 2 GPUs; .*at most 2"):
        check_split([model(tensor_parallel=4)], 2)
    check_split([model(tensor_parallel=2, replicas=2)], 4)


def test_replicas_that_do_not_fit_on_the_gpu_with_the_trainer_are_refused_with_the_figures() -> None:
    check_split([model(replicas=2)], 1)
    with pytest.raises(
        ConfigError, match=r"add up to 1\.2 \(policy#1 0\.4, .*policy#3 0\.4\) on GPU 0 of 1.*0\.9.*few"
    ):
        check_split([model(replicas=3)], 1)
    check_split([model(replicas=3)], 2)
    check_split([model(replicas=3)], 0)  # without a GPU it is memory that counts


def test_servers_spread_over_the_gpus_that_have_most_left() -> None:
    assert spread({"a": (1, 0.4), "b": (1, 0.4), "c": (1, 0.4)}, 2) == {"a": (0,), "b": (1,), "c": (0,)}
    assert spread({"a": (2, 0.8), "b": (2, 0.8)}, 4) == {"a": (0, 1), "b": (2, 3)}


def test_an_engine_with_fewer_replicas_is_used_and_said(caplog: pytest.LogCaptureFixture) -> None:
    settings = ModelSettings(model="owner/model", trainable=True, max_lora_rank=16, lora_slots=3, replicas=1)
    served = ModelHealth(name="policy", model="owner/model", vllm="0", ready=True, settings=settings)
    check_served("http://engine", [model(replicas=3)], [served])

    assert "serves 'policy' by 1 replica, asked for are 3" in caplog.text


def test_an_engine_is_not_compared_with_replicas_that_nobody_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    settings = ModelSettings(model="owner/model", trainable=True, max_lora_rank=16, lora_slots=3, replicas=3)
    served = ModelHealth(name="policy", model="owner/model", vllm="0", ready=True, settings=settings)
    check_served("http://engine", [model()], [served])

    assert caplog.text == ""
