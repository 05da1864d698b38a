"""The untrained policy's own attempts at orders, sampled once and kept, so that every mode judges the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import answer_of, take_order
from orders import Message, practice, right_share

from woodshed import Trajectory
from woodshed.engine.client.client import EngineClient
from woodshed.rewards.known_groups import KnownGroup
from woodshed.training.rollouts.rollout import run_rollout

_SAMPLED_AT_ONCE = 4
"""Groups."""


async def kept_groups(
    folder: Path, count: int, size: int, client: EngineClient, sampling: dict[str, Any]
) -> list[KnownGroup]:
    """Return `count` groups of `size` attempts whose true rewards differ: those kept in `folder`, or new ones.

    Fewer than `count` where not so many groups differ.
    """
    messages, file = {m.id: m for m in practice()}, folder / f"groups-{count}x{size}.jsonl"
    if not file.is_file():
        sampled = await _sampled(list(messages.values()), count, size, client, sampling)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps([t.model_dump(mode='json') for t in g])}\n" for g in sampled))
    stored = [[Trajectory.model_validate(t) for t in json.loads(line)] for line in file.read_text().splitlines()]
    return [_known(group, messages[group[0].scenario_id]) for group in stored]


async def _sampled(
    messages: Sequence[Message], count: int, size: int, client: EngineClient, sampling: dict[str, Any]
) -> list[list[Trajectory]]:
    async def attempt(message: Message) -> Trajectory:
        return await run_rollout(
            take_order, message, scenario_id=message.id, client=client, policy="policy", sampling=sampling,
            timeout_s=300,
        )  # fmt: skip

    found: list[list[Trajectory]] = []
    for first in range(0, len(messages), _SAMPLED_AT_ONCE):
        asked = messages[first : first + _SAMPLED_AT_ONCE]
        attempts = await asyncio.gather(*(attempt(m) for m in asked for _ in range(size)))
        groups = [list(attempts[n * size : (n + 1) * size]) for n in range(len(asked))]
        found += [g for g, m in zip(groups, asked, strict=True) if len(set(_known(g, m).worth.values())) > 1]
        if len(found) >= count:
            break
    return found[:count]


def _known(group: Sequence[Trajectory], message: Message) -> KnownGroup:
    worth = {t.rollout_id: right_share(answer_of(t), message) for t in group if t.status == "completed"}
    return KnownGroup(name=message.id, trajectories=tuple(group), worth=worth)
