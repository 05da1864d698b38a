"""The untrained policy's own attempts at orders, sampled once and kept, so that every mode judges the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from agent import answer_of, take_order
from orders import Message, practice, right_share

from woodshed import Trajectory
from woodshed.engine.client.client import EngineClient
from woodshed.rewards.known_groups import KnownGroup
from woodshed.training.rollouts.rollout import run_rollout

_SAMPLED_AT_ONCE = 4
"""Groups."""


async def kept_groups(file: Path, count: int, size: int, client: EngineClient, sampling: dict[str, object]):  # type: ignore[no-untyped-def]
    """Return `count` groups of `size` attempts whose true rewards differ: those in `file`, or new ones."""
    messages = {m.id: m for m in practice()}
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        sampled = [group async for group in _sampled(list(messages.values()), count, size, client, sampling)]
        file.write_text("".join(f"{json.dumps([t.model_dump(mode='json') for t in g])}\n" for g in sampled))
    stored = [[Trajectory.model_validate(t) for t in json.loads(line)] for line in file.read_text().splitlines()]
    return [_known(group, messages[group[0].scenario_id]) for group in stored]


async def _sampled(
    messages: Sequence[Message], count: int, size: int, client: EngineClient, sampling: dict[str, object]
) -> AsyncIterator[list[Trajectory]]:
    found = 0
    for first in range(0, len(messages), _SAMPLED_AT_ONCE):
        asked = messages[first : first + _SAMPLED_AT_ONCE]
        for message, group in zip(
            asked, await asyncio.gather(*(_group(m, size, client, sampling) for m in asked)), strict=True
        ):
            if found < count and len(set(_known(group, message).worth.values())) > 1:
                found += 1
                yield group
        if found == count:
            return


async def _group(message: Message, size: int, client: EngineClient, sampling: dict[str, object]) -> list[Trajectory]:
    return list(
        await asyncio.gather(
            *(
                run_rollout(
                    take_order, message, scenario_id=message.id, client=client, policy="policy", sampling=sampling,
                    timeout_s=300,
                )
                for _ in range(size)
            )
        )
    )  # fmt: skip


def _known(group: Sequence[Trajectory], message: Message) -> KnownGroup:
    worth = {t.rollout_id: right_share(answer_of(t), message) for t in group if t.status == "completed"}
    return KnownGroup(name=message.id, trajectories=tuple(group), worth=worth)
