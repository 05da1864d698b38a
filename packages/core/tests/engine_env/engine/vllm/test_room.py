"""Whether replicas fit into memory, and what each server is started with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.command import command_line, fork_server_environment, threads_for, visible_devices
from woodshed.engine.vllm.room import check_room, foreseen
from woodshed.errors import ConfigError

GIB = 2**30


def model(tmp_path: Path, **settings: Any) -> ServedModel:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(GIB)
    return ServedModel(
        **{"name": "policy", "path": str(tmp_path), "trainable": True, "kv_cache_gib": 1.0, "replicas": 2, **settings}
    )


def test_a_server_takes_its_weights_in_the_dtype_it_computes_in_and_its_cache(tmp_path: Path) -> None:
    assert foreseen(model(tmp_path)) == 3.5 * GIB  # stored in 16 bits, computed in 32
    assert foreseen(model(tmp_path, dtype="bfloat16", kv_cache_gib=0.5)) == 2 * GIB


def test_replicas_that_need_more_memory_than_is_free_are_refused_with_the_figures(tmp_path: Path) -> None:
    judge = model(tmp_path / "judge", name="judge", trainable=False, replicas=1)
    check_room([model(tmp_path), judge], 9.6 * GIB)
    with pytest.raises(
        ConfigError,
        match=r"need 13\.0 GiB .*3 of 'policy' at 3\.5 GiB, 1 of 'judge' at 2\.5 GiB.*9\.6 GiB are free.*replicas=2",
    ):
        check_room([model(tmp_path, replicas=3), judge], 9.6 * GIB)
    with pytest.raises(ConfigError, match="fewer or smaller models"):
        check_room([model(tmp_path, replicas=3), judge], 2.6 * GIB)


def test_a_single_server_is_left_to_try(tmp_path: Path) -> None:
    check_room([model(tmp_path, replicas=1)], 1.0)


def test_servers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))

    assert [threads_for(servers) for servers in (1, 2, 3, 8, 20)] == [7, 4, 2, 1, 1]
    assert fork_server_environment(3, gpu=False)["OMP_NUM_THREADS"] == "2"


def test_on_several_gpus_each_replica_sees_its_own(tmp_path: Path) -> None:
    one, two = model(tmp_path, replicas=1), model(tmp_path)

    assert visible_devices([one], ["0", "1"]) == visible_devices([two], ["0"]) == visible_devices([two], []) == {}
    assert visible_devices([two], ["4", "5"]) == {
        "policy#1": {"CUDA_VISIBLE_DEVICES": "4"},
        "policy#2": {"CUDA_VISIBLE_DEVICES": "5"},
    }
    line = command_line(model(tmp_path, tensor_parallel=2), 8000, gpu=True)
    assert line[line.index("--tensor-parallel-size") + 1] == "2"
