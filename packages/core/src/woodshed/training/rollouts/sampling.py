"""Which scenarios a step practises on: a function of the run's seed, the same whenever it is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence

from woodshed.training.config import TrainConfig


def batch_ids(ids: Sequence[str], step: int, config: TrainConfig) -> list[str]:
    """Return the scenarios of a step: epochs over all of them, each epoch shuffled by the run's seed."""
    count = min(config.scenarios_per_step, len(ids))
    first = step * count
    chosen: list[str] = []
    for place in range(first, first + count):
        epoch, offset = divmod(place, len(ids))
        order = random.Random(f"{config.seed}/{epoch}").sample(list(ids), len(ids))
        chosen.append(order[offset])
    return chosen if len(set(chosen)) == count else _distinct(chosen, ids, config.seed, step)


def further_ids(ids: Sequence[str], step: int, config: TrainConfig) -> list[str]:
    """Return the scenarios a step may draw in place of flat groups, in the order they are drawn."""
    own = set(batch_ids(ids, step, config))
    rest = [i for i in ids if i not in own]
    return random.Random(f"{config.seed}/{step}/further").sample(rest, min(config.extra_scenarios, len(rest)))


def _distinct(chosen: Sequence[str], ids: Sequence[str], seed: int, step: int) -> list[str]:
    """Where a batch straddles two epochs and repeats a scenario, replace the repeats."""
    unique = list(dict.fromkeys(chosen))
    rest = [i for i in ids if i not in unique]
    return unique + random.Random(f"{seed}/{step}/fill").sample(rest, len(chosen) - len(unique))
