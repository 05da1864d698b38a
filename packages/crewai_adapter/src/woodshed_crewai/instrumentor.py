"""Which functions of CrewAI are hooked, and the door to it: `trainable`."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, TypeVar

from crewai import Crew
from crewai.flow.flow import Flow
from crewai.llms.base_llm import BaseLLM
from crewai.llms.providers.openai.completion import OpenAICompletion

from woodshed.capture import SDK_HOOKS, Around, Hook, HookSet, Instrumentor, VersionRange
from woodshed.errors import ConfigError
from woodshed_crewai import _attempts as attempts
from woodshed_crewai import _executions as executions
from woodshed_crewai import _tools as tools
from woodshed_crewai import _wrappers as models
from woodshed_crewai._authors import around_own_call, defined_at, is_crewais
from woodshed_crewai._classes import ClassHooks
from woodshed_crewai._model_calls import around_one_answer

T = TypeVar("T")

_OPENAI = "crewai.llms.providers.openai.completion"
_BASE = "crewai.llms.base_llm"
_INSTRUCTOR = "crewai.utilities.internal_instructor"
_CONVERTER = "crewai.utilities.converter"
_AGENT = "crewai.agent.core"
_LITE = "crewai.lite_agent"
_STREAMING = "crewai.utilities.streaming"
_TOOL = "crewai.tools.base_tool"
_STRUCTURED = "crewai.tools.structured_tool"
_USAGE = "crewai.tools.tool_usage"
# The executor moved in 1.15.29; the functions of `tool_utils` are hooked where they are used.
_EXECUTORS = ("crewai.experimental.agent_executor", "crewai.agents.agent_executor")
_OLD_EXECUTOR = "crewai.agents.crew_agent_executor"
_STEPS = "crewai.agents.step_executor"
_TEXT_TOOL, _STEP_TOOL = "execute_tool_and_check_finality", "execute_single_native_tool_call"
_NATIVE_TOOL = "_execute_single_native_tool_call"
_KICKOFFS = (
    ("crewai.crew", "Crew.kickoff"),
    ("crewai.crew", "Crew.kickoff_async"),
    ("crewai.crew", "Crew.akickoff"),
    ("crewai.flow.runtime", "Flow.kickoff"),
    ("crewai.flow.runtime", "Flow.kickoff_async"),
)


def _hooks_of(model_class: type) -> dict[str, Around]:
    """Return what happens around a model class's own methods: the policy answers, or an author's code runs."""
    if not is_crewais(model_class):
        own = {name: defined_at(model_class, name) for name in ("call", "acall")}
        # What another model class defines is hooked there; a mixin's has no other place.
        return {
            name: around_own_call(model_class, name)
            for name, owner in own.items()
            if owner is model_class or not issubclass(owner, BaseLLM)
        }
    if issubclass(model_class, OpenAICompletion):
        return {}
    return {name: around for name, around in _FOREIGN.items() if name in vars(model_class)}


_FOREIGN = {
    "call": models.around_foreign_call,
    "acall": models.around_foreign_call,
    "get_input_tokens_count": models.around_token_count,
    "_get_sync_client": models.around_foreign_client,
    "_get_async_client": models.around_foreign_client,
}
MODEL_CLASSES = ClassHooks(_hooks_of)
"""Every model class but CrewAI's OpenAI one, also those that are defined later."""


def _around_new_class(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    """Hook a model class as it is made."""
    made = wrapped(*args, **kwargs)
    MODEL_CLASSES.add(instance)
    return made


HOOKS = (
    # Who answers. Only the two getters hand out a client.
    Hook(_OPENAI, "OpenAICompletion.call", models.around_call),
    Hook(_OPENAI, "OpenAICompletion.acall", models.around_call),
    Hook(_OPENAI, "OpenAICompletion._get_sync_client", models.around_sync_client),
    Hook(_OPENAI, "OpenAICompletion._get_async_client", models.around_async_client),
    Hook(_OPENAI, "OpenAICompletion._handle_completion", models.around_completion),
    Hook(_OPENAI, "OpenAICompletion._handle_streaming_completion", models.around_completion),
    Hook(_OPENAI, "OpenAICompletion._ahandle_completion", models.around_completion),
    Hook(_OPENAI, "OpenAICompletion._ahandle_streaming_completion", models.around_completion),
    Hook(_OPENAI, "OpenAICompletion._extract_openai_token_usage", models.around_usage),
    Hook(_OPENAI, "OpenAICompletion._call_responses", models.around_responses),
    Hook(_OPENAI, "OpenAICompletion._acall_responses", models.around_responses),
    Hook(_OPENAI, "OpenAICompletion.get_input_tokens_count", models.around_token_count, optional=True),  # >= 1.15.29
    Hook(_INSTRUCTOR, "InternalInstructor._create_instructor_client", models.around_instructor_client),
    Hook(_INSTRUCTOR, "InternalInstructor.to_pydantic", models.around_instructor),
    Hook("crewai.llm", "LLM.__new__", models.around_construction),
    Hook(_BASE, "BaseLLM.__pydantic_init_subclass__", _around_new_class),
    *SDK_HOOKS,
    # Whose work it is, and in which attempt.
    Hook("crewai.task", "Task._execute_core", attempts.around_task),
    Hook("crewai.task", "Task._aexecute_core", attempts.around_task),
    Hook(_AGENT, "Agent.execute_task", attempts.around_run),
    Hook(_AGENT, "Agent.aexecute_task", attempts.around_run),
    Hook(_AGENT, "Agent.kickoff", attempts.around_kickoff),
    Hook(_AGENT, "Agent.kickoff_async", attempts.around_kickoff),
    Hook(_AGENT, "Agent._execute_and_build_output", attempts.around_kickoff_run),
    Hook(_AGENT, "Agent._execute_and_build_output_async", attempts.around_kickoff_run),
    *(Hook(module, path, attempts.around_whole_kickoff) for module, path in _KICKOFFS),
    Hook(_AGENT, "Agent._execute_with_timeout", executions.around_timed_execution),
    Hook(_AGENT, "Agent._aexecute_with_timeout", executions.around_timed_execution),
    Hook(_AGENT, "Agent._execute_without_timeout", executions.around_execution),
    Hook(_AGENT, "Agent._aexecute_without_timeout", executions.around_execution),
    Hook(_LITE, "LiteAgent.kickoff", attempts.around_whole_kickoff, optional=True),
    Hook(_LITE, "LiteAgent.kickoff_async", attempts.around_whole_kickoff, optional=True),
    Hook(_LITE, "LiteAgent._execute_core", attempts.around_same_again, optional=True),
    Hook(_LITE, "LiteAgent._invoke_loop", executions.around_execution, optional=True),
    Hook(_CONVERTER, "Converter.to_pydantic", attempts.around_same_again),
    Hook(_CONVERTER, "Converter.to_json", attempts.around_same_again),
    Hook(_CONVERTER, "Converter.ato_pydantic", attempts.around_same_again),
    Hook(_CONVERTER, "Converter.ato_json", attempts.around_same_again),
    Hook("crewai.task", "Task._export_output", attempts.around_output),
    Hook("crewai.task", "Task._aexport_output", attempts.around_output),
    Hook("crewai.utilities.reasoning_handler", "AgentReasoning._execute_planning", around_one_answer),
    Hook("crewai.flow.runtime", "Flow._collapse_to_outcome", around_one_answer),
    Hook(_USAGE, "ToolUsage._tool_calling", attempts.around_same_again),
    *(Hook(module, "process_guardrail", attempts.around_guardrail) for module in ("crewai.task", _AGENT)),
    Hook(_LITE, "process_guardrail", attempts.around_guardrail, optional=True),
    # Tools: the outer hooks know the request and what the model is told, the inner ones the true exception.
    *(
        Hook(module, f"AgentExecutor.{_NATIVE_TOOL}", tools.around_native_tool_call, optional=True)
        for module in _EXECUTORS
    ),
    Hook(_OLD_EXECUTOR, f"CrewAgentExecutor.{_NATIVE_TOOL}", tools.around_native_tool_call, optional=True),
    Hook(_STEPS, _STEP_TOOL, tools.around_step_tool_call),
    *(
        Hook(module, _TEXT_TOOL, tools.around_text_tool_call, optional=True)
        for module in (*_EXECUTORS, _OLD_EXECUTOR, _STEPS, _LITE)
    ),
    Hook(_OLD_EXECUTOR, f"a{_TEXT_TOOL}", tools.around_text_tool_call, optional=True),
    Hook(_USAGE, "ToolUsage._use", tools.around_text_use),
    Hook(_USAGE, "ToolUsage._ause", tools.around_text_use),
    Hook(_USAGE, "ToolUsage._validate_tool_input", tools.around_text_arguments),
    Hook(_BASE, "BaseLLM._handle_tool_execution", tools.around_function_in_call),
    Hook(_TOOL, "BaseTool.run", tools.around_tool_body),
    Hook(_TOOL, "BaseTool.arun", tools.around_tool_body),
    Hook(_TOOL, "Tool.run", tools.around_tool_body),
    Hook(_TOOL, "Tool.arun", tools.around_tool_body),
    Hook(_STRUCTURED, "CrewStructuredTool.invoke", tools.around_tool_body),
    Hook(_STRUCTURED, "CrewStructuredTool.ainvoke", tools.around_tool_body),
    # A lazy stream may be read in another context than it was made in.
    Hook("crewai.crew", "create_chunk_generator", models.around_stream),
    Hook("crewai.crew", "create_async_chunk_generator", models.around_stream),
    Hook(_STREAMING, "create_async_chunk_generator", models.around_stream),  # imported anew by kickoff_for_each_async
    Hook("crewai.flow.runtime", "create_frame_generator", models.around_stream),
    Hook("crewai.flow.runtime", "create_async_frame_generator", models.around_stream),
    Hook(_BASE, "create_frame_generator", models.around_stream),
)


class CrewAIInstrumentor(Instrumentor):
    """Hooks CrewAI process-wide, once; outside a rollout the hooks do nothing."""

    supported: ClassVar[tuple[VersionRange, ...]] = (VersionRange("crewai", "1.15.2", "1.15.30"),)
    _hooks: ClassVar[HookSet] = HookSet(HOOKS, supported=supported)

    def instrument(self) -> None:
        """Apply the hooks, also to model classes that are defined later; a second call changes nothing.

        Raises:
            UnsupportedVersionError: the installed CrewAI is older than the tested range; newer, too, where the
                environment variable `WOODSHED_STRICT_VERSIONS` is 1. Otherwise a newer one is hooked with a warning.
            HookError: a function to hook is missing; nothing was changed.
        """
        super().instrument()
        MODEL_CLASSES.apply()

    def uninstrument(self) -> None:
        """Put every hooked function back as it was."""
        MODEL_CLASSES.revert()
        super().uninstrument()


def instrument() -> None:
    """Apply the hooks, for crews that are built inside the rollout function and cannot be decorated beforehand."""
    CrewAIInstrumentor().instrument()


def trainable(target: T) -> T:
    """Return the very same crew, flow, class or function, untouched, ready to practise.

    Inside a rollout every model its agents call is answered by the policy, and model and tool calls are recorded;
    anywhere else it behaves exactly as before.

    Example:
        ```python
        @trainable
        @CrewBase
        class SupportCrew: ...
        ```

    Raises:
        ConfigError: `target` holds no crew.
        UnsupportedVersionError, HookError: as `CrewAIInstrumentor.instrument` raises them.
    """
    if not _holds_a_crew(target):
        raise ConfigError(
            "trainable() expects a @CrewBase class, a Crew, a Flow class or a function that returns one of them, but "
            f"got {_describe(target)}"
        )
    instrument()
    return target


def _holds_a_crew(target: Any) -> bool:
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, (Crew, Flow)) or hasattr(kind, "is_crew_class") or inspect.isroutine(target)


def _describe(target: Any) -> str:
    if isinstance(target, type):
        return f"the class {target.__module__}.{target.__qualname__}; put @trainable above @CrewBase"
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    return f"a {kind}. For anything else call woodshed_crewai.instrument() once and run it inside the rollout function"
