"""Places for replicas on a cluster's nodes: reserved together, and what is missing where they cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from woodshed.engine.client.config import ServedModel
from woodshed.engine.vllm.room import foreseen
from woodshed.errors import EngineError

PLACED_WITHIN_S = 30.0
_GIB = 2**30


def wanted(model: ServedModel, *, gpu: bool) -> dict[str, float]:
    """Return what a replica of a model reserves: a core, and its GPUs, or without GPUs the memory it will take.

    Raises:
        EngineError: It is to be spread over GPUs, and there are none.
    """
    if gpu:
        return {"CPU": 1.0, "GPU": float(model.tensor_parallel)}
    if model.tensor_parallel > 1:
        raise EngineError(
            f"model {model.name!r}: tensor_parallel is {model.tensor_parallel}, and no node of the cluster has a GPU; "
            "expected 1: use replicas instead"
        )
    return {"CPU": 1.0, "memory": float(int(foreseen(model)))}


class Reservation:
    """One place for each server, spread over the nodes. A place that its node's death takes is found anew by Ray."""

    def __init__(self, places: Mapping[str, Mapping[str, float]]) -> None:
        """Ask for places: server → what it reserves."""
        self._bundles = [dict(bundle) for bundle in places.values()]
        self._index = {name: index for index, name in enumerate(places)}
        self._group = placement_group(self._bundles, strategy="SPREAD")

    async def ready(self, within_s: float = PLACED_WITHIN_S) -> None:
        """Wait until every place is found.

        Raises:
            EngineError: There is no room; names what is missing.
        """
        if not await asyncio.to_thread(self._group.wait, within_s):
            raise EngineError(f"the Ray cluster has no room for {len(self._bundles)} replicas: {self.missing()}")

    def at(self, server: str) -> dict[str, Any]:
        """Return the options of an actor that takes the place of a server."""
        index = self._index[server]
        bundle = self._bundles[index]
        return self._options(index) | {
            "num_cpus": bundle["CPU"],
            "num_gpus": bundle.get("GPU", 0),
            "memory": bundle.get("memory"),
        }

    def beside(self, server: str) -> dict[str, Any]:
        """Return the options of a task that runs at a server's place and takes nothing of it."""
        return self._options(self._index[server]) | {"num_cpus": 0}

    def on_the_node_of(self, server: str) -> int:
        """Return how many servers have their place on the node of a server."""
        nodes = placement_group_table(self._group)["bundles_to_node_id"]
        return max(1, list(nodes.values()).count(nodes[self._index[server]]))

    def missing(self, server: str | None = None) -> str:
        """Return which resource the cluster lacks for all places, or for the one of a server, as far as can be seen."""
        bundles = self._bundles if server is None else [self._bundles[self._index[server]]]
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return missing(bundles, nodes, ray.available_resources(), lost=server is not None)

    def remove(self) -> None:
        """Give the places back."""
        remove_placement_group(self._group)

    def _options(self, index: int) -> dict[str, Any]:
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._group, placement_group_bundle_index=index
            )
        }


def missing(
    bundles: Sequence[Mapping[str, float]],
    nodes: Sequence[Mapping[str, float]],
    free: Mapping[str, float],
    *,
    lost: bool = False,
) -> str:
    """Return what is asked, what there is and what is free of each resource that falls short.

    Args:
        bundles: What each replica reserves, on one node.
        nodes: Of each living node, what it has.
        free: What is not taken, of all nodes together.
        lost: Whether only what is free counts.
    """
    short = []
    for name in dict.fromkeys(name for bundle in bundles for name in bundle):
        each = max(bundle.get(name, 0) for bundle in bundles)
        asked, has = sum(bundle.get(name, 0) for bundle in bundles), sum(node.get(name, 0) for node in nodes)
        most, left = max((node.get(name, 0) for node in nodes), default=0), free.get(name, 0)
        if asked > min(has, left) or each > most:
            short.append(
                f"{name}: {_told(name, asked)} asked ({len(bundles)} at {_told(name, each)}), {len(nodes)} nodes have "
                f"{_told(name, has)} ({_told(name, most)} at most on one), {_told(name, left)} free"
            )
    if not short:
        short = ["what is free lies on too many nodes in too small parts" if not lost else "its node is being replaced"]
    return "; ".join(short) + ". Ask for fewer replicas, add nodes (`ray start --address=…`), or free what others hold"


def _told(name: str, amount: float) -> str:
    return f"{amount / _GIB:.1f} GiB" if name in ("memory", "object_store_memory") else f"{amount:g}"
