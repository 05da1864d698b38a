"""Framework call → trajectory: whose rollout is this, what happened in it, and how a framework is hooked."""

from etude.capture.assemble import assemble
from etude.capture.context import bind, current_rollout, require_rollout, untracked
from etude.capture.hooks import Hook, HookSet
from etude.capture.recorder import CALL_ID_HEADER, OpenCall, OpenTool, Recorder, new_id
from etude.capture.rollout import Rollout, RolloutFunction, rollout
from etude.capture.threads import carry

__all__ = [
    "CALL_ID_HEADER",
    "Hook",
    "HookSet",
    "OpenCall",
    "OpenTool",
    "Recorder",
    "Rollout",
    "RolloutFunction",
    "assemble",
    "bind",
    "carry",
    "current_rollout",
    "new_id",
    "require_rollout",
    "rollout",
    "untracked",
]
