"""Give every ruler of a reward a concrete mode before it judges."""

from __future__ import annotations

from collections.abc import Mapping

from woodshed.rewards.base import Reward
from woodshed.rewards.blend import Blend
from woodshed.rewards.mode_trial import ModeTable
from woodshed.rewards.ruler import Ruler


def is_undecided(reward: Reward) -> bool:
    """Whether a ruler of the reward has no concrete mode yet."""
    if isinstance(reward, Blend):
        return any(is_undecided(part) for _, part in reward.parts)
    return isinstance(reward, Ruler) and reward.mode == "auto"


async def prepared(reward: Reward, decided: Mapping[str, ModeTable] | None = None) -> tuple[Reward, list[ModeTable]]:
    """Return the reward with a mode in place of each `auto`, and the tables that led to the choices.

    Args:
        reward: a bound reward.
        decided: name of a ruler → its table, if an earlier part of the run has it; it is not tried again.

    Raises:
        CheckError: a judge is no better than a coin.
        CostCeilingError: the trial would exceed the ruler's cost ceiling.
    """
    if isinstance(reward, Blend):
        parts, tables = [], []
        for weight, part in reward.parts:
            ready, found = await prepared(part, decided)
            parts.append((weight, ready))
            tables += found
        return Blend(*parts), tables
    if not isinstance(reward, Ruler) or not is_undecided(reward):
        return reward, []
    known = (decided or {}).get(reward.name)
    if known is not None:
        return reward.in_mode(known.mode), [known]
    choice = await reward.prepared()
    return choice.ruler, [choice.table] if choice.table is not None else []
