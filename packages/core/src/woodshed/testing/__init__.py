"""Test an agent or an adapter without a model: a scripted engine, its replies, and a rollout bound to it."""

from woodshed.testing.engine import ScriptedEngine, Seen
from woodshed.testing.replies import Reply, Script, call_tool, call_tools, fail, hang, in_order, say
from woodshed.testing.rollouts import scripted_rollout

__all__ = [
    "Reply",
    "Script",
    "ScriptedEngine",
    "Seen",
    "call_tool",
    "call_tools",
    "fail",
    "hang",
    "in_order",
    "say",
    "scripted_rollout",
]
