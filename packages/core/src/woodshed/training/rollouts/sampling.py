"""The scenarios of each step, determined by the run's seed and the step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from woodshed.training.config import TrainConfig


def step_scenarios(ids: Sequence[str], step: int, config: TrainConfig) -> list[str]:
    """Return the scenario ids of a step: epochs over all scenarios, each epoch shuffled by the run's seed."""
    count = min(config.scenarios_per_step, len(ids))
    first = step * count
    chosen: list[str] = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, len(ids))
        order = random.Random(f"{config.seed}/{epoch}").sample(list(ids), len(ids))
        chosen.append(order[offset])
    return chosen if len(set(chosen)) == count else _distinct(chosen, ids, config.seed, step)


def spare_scenarios(ids: Sequence[str], step: int, config: TrainConfig) -> list[str]:
    """Return the scenario ids a step may draw in place of flat groups, in drawing order."""
    regular = set(step_scenarios(ids, step, config))
    rest = [i for i in ids if i not in regular]
    return random.Random(f"{config.seed}/{step}/further").sample(rest, min(config.extra_scenarios, len(rest)))


def _distinct(chosen: Sequence[str], ids: Sequence[str], seed: int, step: int) -> list[str]:
    """Replace the repeats in a step that spans two epochs and has a scenario twice."""
    unique = list(dict.fromkeys(chosen))
    rest = [i for i in ids if i not in unique]
    return unique + random.Random(f"{seed}/{step}/fill").sample(rest, len(chosen) - len(unique))
