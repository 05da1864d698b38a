"""What is said where a cluster has no room, and where a node is not what the engine is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from woodshed.engine.client.config import ServedModel
from woodshed.engine.cluster.node_report import refusal
from woodshed.engine.cluster.reservation import missing, wanted
from woodshed.errors import EngineError

GIB = 2**30


def test_the_missing_resource_is_named_with_what_is_asked_there_and_free() -> None:
    said = missing([{"CPU": 1.0, "GPU": 2.0}] * 3, [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}], {"CPU": 16.0, "GPU": 4.0})

    assert said.startswith("GPU: 6 asked (3 at 2), 2 nodes have 4 (4 at most on one), 4 free. Ask for fewer replicas")


def test_what_others_hold_is_missing_too_and_memory_is_told_in_gib() -> None:
    bundle = {"CPU": 1.0, "memory": 3.0 * GIB}
    said = missing([bundle] * 2, [{"CPU": 2.0, "memory": 8.0 * GIB}], {"CPU": 0.0, "memory": 8.0 * GIB})
    assert said.startswith("CPU: 2 asked (2 at 1), 1 nodes have 2 (2 at most on one), 0 free.")
    said = missing([bundle], [{"CPU": 2.0, "memory": 2.0 * GIB}], {"CPU": 2.0, "memory": 2.0 * GIB})
    assert said.startswith("memory: 3.0 GiB asked (1 at 3.0 GiB), 1 nodes have 2.0 GiB")


def test_enough_in_all_but_on_no_node_is_missing() -> None:
    said = missing([{"GPU": 4.0}], [{"GPU": 2.0}] * 2, {"GPU": 4.0})

    assert said.startswith("GPU: 4 asked (1 at 4), 2 nodes have 4 (2 at most on one), 4 free")


def test_a_replica_reserves_whole_gpus_or_without_any_the_memory_it_will_take(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = ServedModel(name="policy", path=str(tmp_path), kv_cache_gib=1.0)

    assert wanted(model.model_copy(update={"tensor_parallel": 2}), gpu=True) == {"CPU": 1.0, "GPU": 2.0}
    assert wanted(model, gpu=False) == {"CPU": 1.0, "memory": 1.5 * GIB}
    with pytest.raises(EngineError, match=r"tensor_parallel is 2, and no node of the cluster has a GPU"):
        wanted(model.model_copy(update={"tensor_parallel": 2}), gpu=False)


ENGINE: dict[str, Any] = {
    "ip": "10.0.0.1", "node": "a", "python": "/e/bin/python", "vllm": "0.32.0", "woodshed": "0.1.0 (aaaaaaaa)",
    "models": {"/m": "f00d"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"woodshed": None, "models": {}}, "has woodshed not installed; expected 0.1.0 (aaaaaaaa), as the engine has"),
        ({"woodshed": "0.1.0 (bbbbbbbb)"}, "has woodshed 0.1.0 (bbbbbbbb); expected 0.1.0 (aaaaaaaa)"),
        ({"vllm": "0.31.0"}, "has vllm 0.31.0; expected 0.32.0"),
        ({"vllm": None}, "has vllm not installed; expected 0.32.0"),
        ({"models": {"/m": None}}, "has no model in '/m'; expected the one that the engine has there. Copy it"),
        ({"models": {"/m": "beef"}}, "has another model in '/m': its fingerprint is beef, expected f00d. Copy"),
    ],
)
def test_a_node_that_differs_is_refused_with_its_name_and_the_next_step(change: dict[str, Any], says: str) -> None:
    found = copy.deepcopy(ENGINE) | {"ip": "10.0.0.2"}

    assert refusal(ENGINE, found) is None
    assert (why := refusal(ENGINE, found | change)) is not None
    assert why.startswith(f"node 10.0.0.2 (/e/bin/python) {says}")
