"""Framework call → trajectory: whose rollout is this, what happened in it, and how a framework is hooked."""

from woodshed.capture.assemble import assemble
from woodshed.capture.context import bind, current_rollout, require_rollout, untracked
from woodshed.capture.hooks import Hook, HookSet
from woodshed.capture.instrumentor import Instrumentor
from woodshed.capture.leaks import SDK_HOOKS
from woodshed.capture.place import Place, Scope, at, current_place
from woodshed.capture.recorder import CALL_ID_HEADER, OpenCall, OpenTool, Recorder, new_id
from woodshed.capture.requests import policy_params, provider_tool
from woodshed.capture.rollout import Rollout, RolloutFunction, rollout
from woodshed.capture.spans import ToolSpan, model_span
from woodshed.capture.threads import carry

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
