"""Whether a Ray cluster has room for the ranks of a trainer, and what it lacks where it has none."""

from __future__ import annotations

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from woodshed.errors import TrainError


def wait_for_room(count: int, each: dict[str, float], within_s: float) -> None:
    """Wait until the cluster has room for `count` ranks that need `each`: name of a resource → amount.

    Raises:
        TrainError: It has none in time; says which resource is missing.
    """
    group = placement_group([each] * count, strategy="PACK")
    try:
        if group.wait(within_s):
            return
    finally:
        remove_placement_group(group)
    raise TrainError(_missing(count, each, within_s))


def _missing(count: int, each: dict[str, float], within_s: float) -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    needed = {name: amount * count for name, amount in each.items()}
    lacking = [n for n in needed if total.get(n, 0) < needed[n]] or [n for n in needed if free.get(n, 0) < needed[n]]
    has = ", ".join(f"{n} {total.get(n, 0):g} ({free.get(n, 0):g} of them free)" for n in lacking or needed)
    what = " and ".join(f"{n} {needed[n]:g}" for n in lacking or needed)
    where = "" if lacking else ", which is enough, but on no node together"
    per_rank = ", ".join(f"{n} {amount:g}" for n, amount in each.items())
    return (
        f"trainers={count} needs {what} on the Ray cluster ({per_rank} for each trainer), and after {within_s:g} s "
        f"there is no room: the cluster has {has}{where}. Lower trainers, add a node with `woodshed ray up "
        "--address …`, or see with `woodshed ray status` who holds them"
    )
