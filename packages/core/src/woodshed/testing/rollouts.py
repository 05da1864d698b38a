"""A rollout bound to a scripted engine, for one block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from woodshed.capture import Rollout, bind
from woodshed.types import SealedSession, SessionGrant


class Sessions(Protocol):
    """An engine as far as a single rollout is concerned."""

    def open(self, scenario_id: str = "scenario") -> SessionGrant:
        """Open a session for one rollout."""

    def seal(self, rollout_id: str) -> SealedSession:
        """Close a session and return its calls."""


@contextmanager
def scripted_rollout(engine: Sessions, *, scenario_id: str = "scenario") -> Iterator[Rollout]:
    """Bind a fresh rollout whose model calls `engine` answers; its session is sealed at the end of the block.

    Example:
        ```python
        with ScriptedEngine(in_order(say("Paris"))) as engine, scripted_rollout(engine) as rollout:
            agent.invoke({"messages": [("user", "Capital of France?")]})
        assert engine.trajectory(rollout).calls[0].tokens.completions[0].message.content == "Paris"
        ```
    """
    grant = engine.open(scenario_id)
    rollout = Rollout(
        base_url=grant.base_url, secret=grant.secret, scenario_id=scenario_id, rollout_id=grant.rollout_id
    )
    try:
        with bind(rollout):
            yield rollout
    finally:
        engine.seal(rollout.rollout_id)
