"""Which functions of LangGraph and LangChain are hooked, and the door to it: `wrap(graph)`."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from woodshed.capture import SDK_HOOKS, Hook, HookSet, Instrumentor, VersionRange
from woodshed.errors import ConfigError
from woodshed_langgraph import _attempts as attempts
from woodshed_langgraph import _tools as tools
from woodshed_langgraph import _wrappers as models

G = TypeVar("G")

_CHAT = "langchain_core.language_models.chat_models"
_LLMS = "langchain_core.language_models.llms"
_TOOLS = "langchain_core.tools.base"
_TOOL_NODE = "langgraph.prebuilt.tool_node"
_RUNNER = "langgraph.pregel._runner"
_LOOP = "langgraph.pregel._loop"
_STRUCTURED = "langchain.agents.structured_output"
_RETRY = "langchain_core.runnables.retry"
_FALLBACKS = "langchain_core.runnables.fallbacks"

HOOKS = (
    # Every public way to call a chat model ends in one of these.
    Hook(_CHAT, "BaseChatModel.generate", models.around_model),
    Hook(_CHAT, "BaseChatModel.agenerate", models.around_model),
    Hook(_CHAT, "BaseChatModel.stream", models.around_model),
    Hook(_CHAT, "BaseChatModel.astream", models.around_model),
    Hook(_CHAT, "BaseChatModel._chat_model_stream_v3", models.around_model, optional=True),
    Hook(_CHAT, "BaseChatModel._achat_model_stream_v3", models.around_model, optional=True),
    # What cannot be trained is stopped, not silently sent to the author's provider.
    Hook(_LLMS, "BaseLLM.generate", models.around_completions_model),
    Hook(_LLMS, "BaseLLM.agenerate", models.around_completions_model),
    Hook(_LLMS, "BaseLLM.stream", models.around_completions_model),
    Hook(_LLMS, "BaseLLM.astream", models.around_completions_model),
    *SDK_HOOKS,
    # The tool node knows the outcome the model is told, the tool the true exception.
    Hook(_TOOL_NODE, "ToolNode._run_one", tools.around_tool_call),
    Hook(_TOOL_NODE, "ToolNode._arun_one", tools.around_tool_call),
    Hook("langchain.tools.tool_node", "_ToolNode._run_one", tools.around_tool_call, optional=True),  # langchain < 1.0.5
    Hook("langchain.tools.tool_node", "_ToolNode._arun_one", tools.around_tool_call, optional=True),
    Hook(_TOOLS, "BaseTool.run", tools.around_tool_body),
    Hook(_TOOLS, "BaseTool.arun", tools.around_tool_body),
    # Who calls, and in which attempt.
    Hook(_RUNNER, "run_with_retry", attempts.around_node),
    Hook(_RUNNER, "arun_with_retry", attempts.around_node),
    Hook("langgraph.pregel._retry", "_should_retry_on", attempts.around_should_retry),
    Hook(_LOOP, "PregelLoop._first", attempts.around_graph_start),
    Hook(_LOOP, "PregelLoop.accept_push", attempts.around_task_call),
    Hook(_STRUCTURED, "StructuredOutputValidationError.__init__", models.around_refusal, optional=True),
    Hook(_STRUCTURED, "MultipleStructuredOutputsError.__init__", models.around_refusal, optional=True),
    Hook(_RETRY, "RunnableRetry._invoke", attempts.around_retry),
    Hook(_RETRY, "RunnableRetry._ainvoke", attempts.around_retry),
    Hook(_RETRY, "RunnableRetry._patch_config", attempts.around_retry_attempt),
    Hook(_FALLBACKS, "RunnableWithFallbacks.invoke", attempts.around_fallbacks),
    Hook(_FALLBACKS, "RunnableWithFallbacks.ainvoke", attempts.around_fallbacks),
    Hook(_FALLBACKS, "patch_config", attempts.around_fallback),
    # A node's answer from the cache was written by other weights.
    Hook(_LOOP, "PregelLoop.__init__", models.around_node_cache),
)


class LangGraphInstrumentor(Instrumentor):
    """Hooks LangGraph process-wide, once; outside a rollout the hooks do nothing."""

    supported: ClassVar[tuple[VersionRange, ...]] = (
        VersionRange("langgraph", "1.1.5", "1.2.24"),
        VersionRange("langchain-core", "1.2.10", "1.8.3"),
        VersionRange("langchain-openai", "1.0", "1.7.4"),
    )
    _hooks: ClassVar[HookSet] = HookSet(HOOKS, supported=supported)


def instrument() -> None:
    """Apply the hooks, for graphs that are built inside the rollout function and cannot be wrapped beforehand."""
    LangGraphInstrumentor().instrument()


def wrap(graph: G) -> G:
    """Return the same compiled graph, untouched, ready to practise.

    Inside a rollout every chat model the graph calls is answered by the policy, and its model and tool calls are
    recorded; anywhere else the graph behaves exactly as before.

    Raises:
        ConfigError: `graph` is not a compiled LangGraph graph that runs in this process.
        UnsupportedVersionError, HookError: as `LangGraphInstrumentor.instrument` raises them.
    """
    if not isinstance(graph, Pregel):
        raise ConfigError(f"wrap() expects a compiled LangGraph graph, but got {_describe(graph)}")
    instrument()
    return graph


def _describe(graph: Any) -> str:
    kind = f"{type(graph).__module__}.{type(graph).__qualname__}"
    if isinstance(graph, StateGraph):
        return f"a {kind} that is not compiled; pass `graph.compile()`"
    if type(graph).__name__ == "RemoteGraph":
        return f"a {kind}, whose models run in another process; wrap the graph in the process that serves it"
    return (
        f"a {kind}; pass what `create_agent(...)` or `StateGraph(...).compile()` returned. For any other runnable call "
        "woodshed_langgraph.instrument() once and run it inside the rollout function"
    )
