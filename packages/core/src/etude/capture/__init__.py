"""Framework call → trajectory: whose rollout is this, what happened in it, and how a framework is hooked."""

from etude.capture.assemble import assemble
from etude.capture.context import bind, current_rollout, require_rollout, untracked
from etude.capture.hooks import Hook, HookSet
from etude.capture.instrumentor import Instrumentor
from etude.capture.leaks import SDK_HOOKS
from etude.capture.place import Place, Scope, at, current_place
from etude.capture.recorder import CALL_ID_HEADER, OpenCall, OpenTool, Recorder, new_id
from etude.capture.requests import policy_params, provider_tool
from etude.capture.rollout import Rollout, RolloutFunction, rollout
from etude.capture.spans import ToolSpan, model_span
from etude.capture.threads import carry

__all__ = [
    "CALL_ID_HEADER",
    "SDK_HOOKS",
    "Hook",
    "HookSet",
    "Instrumentor",
    "OpenCall",
    "OpenTool",
    "Place",
    "Recorder",
    "Rollout",
    "RolloutFunction",
    "Scope",
    "ToolSpan",
    "assemble",
    "at",
    "bind",
    "carry",
    "current_place",
    "current_rollout",
    "model_span",
    "new_id",
    "policy_params",
    "provider_tool",
    "require_rollout",
    "rollout",
    "untracked",
]
