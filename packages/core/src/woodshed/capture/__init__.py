"""Framework call → trajectory: whose rollout is this, what happened in it, and how a framework is hooked."""

from woodshed.capture.assemble import AgentSide, agent_side, assemble, join
from woodshed.capture.call_context import AttemptScope, CallContext, current_call_context, in_call_context, in_scope
from woodshed.capture.context import (
    bind,
    current_rollout,
    live_rollout,
    note_late_calls,
    require_rollout,
    take_late_calls,
    untracked,
)
from woodshed.capture.handoffs import HANDOFF_HOOKS as HANDOFF_HOOKS
from woodshed.capture.hooks import Around, Hook, HookSet
from woodshed.capture.in_rollout import Steps, in_rollout, method_name
from woodshed.capture.instrumentor import Instrumentor, instrumented
from woodshed.capture.policy_params import (
    author_settings,
    model_params,
    note_model_settings,
    policy_params,
    provider_tool,
)
from woodshed.capture.propagate import propagate
from woodshed.capture.recorder import CALL_ID_HEADER, OpenCall, OpenTool, Recorder, new_id
from woodshed.capture.rollout import Rollout, RolloutFunction, rollout
from woodshed.capture.sdk_guard import SDK_HOOKS
from woodshed.capture.spans import ToolSpan, model_span
from woodshed.capture.versions import VersionRange

__all__ = [
    "CALL_ID_HEADER",
    "SDK_HOOKS",
    "AgentSide",
    "Around",
    "AttemptScope",
    "CallContext",
    "Hook",
    "HookSet",
    "Instrumentor",
    "OpenCall",
    "OpenTool",
    "Recorder",
    "Rollout",
    "RolloutFunction",
    "Steps",
    "ToolSpan",
    "VersionRange",
    "agent_side",
    "assemble",
    "author_settings",
    "bind",
    "current_call_context",
    "current_rollout",
    "in_call_context",
    "in_rollout",
    "in_scope",
    "instrumented",
    "join",
    "live_rollout",
    "method_name",
    "model_params",
    "model_span",
    "new_id",
    "note_late_calls",
    "note_model_settings",
    "policy_params",
    "propagate",
    "provider_tool",
    "require_rollout",
    "rollout",
    "take_late_calls",
    "untracked",
]
