"""Which functions of Google ADK are hooked, and the door to it: `instrument(agent)`."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, overload

from google.adk.workflow._base_node import BaseNode

from woodshed.capture import SDK_HOOKS, Hook, HookSet, Instrumentor, VersionRange
from woodshed.errors import ConfigError
from woodshed_adk import _attempts as attempts
from woodshed_adk import _tools as tools
from woodshed_adk import _wrappers as models
from woodshed_adk._tree import check

A = TypeVar("A", bound=BaseNode)
_THE_PROCESS: Any = object()

_AGENT = "google.adk.agents.llm_agent"
_CALLER = "google.adk.flows.llm_flows.tools._caller"
_GENAI = "google.genai.models"
_RUNNER = "google.adk.workflow._node_runner"

HOOKS = (
    # Where a flow gets the object whose `generate_content_async` it calls; compaction asks a model outside any flow.
    Hook("google.adk.flows.llm_flows.base_llm_flow", "BaseLlmFlow._get_llm", models.around_model),
    Hook(
        "google.adk.flows.llm_flows.base_llm_flow",
        "BaseLlmFlow._handle_after_model_callback",
        models.around_after_model,
    ),
    Hook("google.adk.apps.llm_event_summarizer", "LlmEventSummarizer.maybe_summarize_events", models.around_summary),
    # Both are read while a request is written, also of a model that cannot be built here.
    Hook(_AGENT, "LlmAgent.canonical_model", models.around_canonical_model),
    Hook(_AGENT, "LlmAgent.canonical_live_model", models.around_canonical_model),
    # What cannot be trained is stopped, not silently sent to the author's provider.
    Hook("google.adk.agents.base_agent", "BaseAgent.run_async", models.around_agent),
    Hook(_GENAI, "Models.generate_content", models.around_genai),
    Hook(_GENAI, "Models.generate_content_stream", models.around_genai),
    Hook(_GENAI, "AsyncModels.generate_content", models.around_genai),
    Hook(_GENAI, "AsyncModels.generate_content_stream", models.around_genai),
    *SDK_HOOKS,
    # The outer one knows what the model is told, the inner one the true exception; a task runs no tool.
    Hook(_CALLER, "_execute_single_prepared_call", tools.around_tool_call),
    Hook(_CALLER, "_call_tool_async", tools.around_tool_body),
    Hook("google.adk.workflow._llm_agent_wrapper", "_dispatch_task_fc", tools.around_task_call),
    # Who calls, and in which attempt.
    Hook(_RUNNER, "NodeRunner.run", attempts.around_node),
    Hook(_RUNNER, "NodeRunner._attempt_retry", attempts.around_attempt_retry),
    # From 2.12 on; before, such a node is not tried again.
    Hook(_RUNNER, "NodeRunner._reset_dynamic_children_for_retry", attempts.around_reset_children, optional=True),
    Hook(
        "google.adk.plugins._reflect_retry_model_plugin",
        "ReflectAndRetryModelPlugin._handle_model_retry",
        attempts.around_model_retry,
    ),
)


class AdkInstrumentor(Instrumentor):
    """Hooks Google ADK process-wide, once; outside a rollout the hooks do nothing."""

    supported: ClassVar[tuple[VersionRange, ...]] = (VersionRange("google-adk", "2.10", "2.13.0"),)
    _hooks: ClassVar[HookSet] = HookSet(HOOKS, supported=supported)

    def uninstrument(self) -> None:
        """Put every hooked function back as it was."""
        super().uninstrument()
        models.PROVIDERS.revert()


@overload
def instrument() -> None: ...
@overload
def instrument(agent: A) -> A: ...
def instrument(agent: Any = _THE_PROCESS) -> Any:
    """Return the same agent, untouched, ready to practise.

    Inside a rollout every model call of the agent and of all it reaches is answered by the policy, and its model and
    tool calls are recorded; anywhere else the agent behaves exactly as before. Without an agent only the hooks are
    applied, for agents that are built inside the rollout function.

    Raises:
        ConfigError: what was given is no ADK agent or workflow, or something in its tree cannot be trained.
        UnsupportedVersionError, HookError: as `AdkInstrumentor.instrument` raises them.
    """
    if agent is _THE_PROCESS:
        return AdkInstrumentor().instrument()
    if not isinstance(agent, BaseNode):
        raise ConfigError(f"instrument() expects a Google ADK agent or workflow, but got {_describe(agent)}")
    check(agent)
    AdkInstrumentor().instrument()
    return agent


def _describe(given: Any) -> str:
    kind = f"a {type(given).__module__}.{type(given).__qualname__}"
    if isinstance(given, type):
        return f"the class {given.__module__}.{given.__qualname__}; pass an instance of it"
    if type(given).__name__ == "App":
        return f"{kind}; pass its `root_agent`, which the app then runs as it is"
    if type(given).__name__ in ("Runner", "InMemoryRunner"):
        return f"{kind}; pass its `agent`"
    return kind
