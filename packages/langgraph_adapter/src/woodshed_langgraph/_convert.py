"""LangChain objects → what an OpenAI-compatible engine takes, and what woodshed records. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from woodshed.capture import note_model_settings, policy_params, provider_tool
from woodshed.errors import ConfigError


def to_payload(payload: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the request body an engine takes, with `headers` added.

    Raises:
        ConfigError: a tool that only a provider can run is among the tools.
    """
    kept = policy_params(payload)
    for tool in kept.get("tools") or ():
        if tool.get("type") != "function":
            raise ConfigError(provider_tool(tool.get("type")))
    kept["extra_headers"] = {**(kept.get("extra_headers") or {}), **headers}
    return kept


def to_openai_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the call's bound arguments, written for another provider's model, as OpenAI's."""
    bound = dict(kwargs)
    if bound.get("tools"):
        bound["tools"] = [function for tool in bound["tools"] for function in _to_openai_tools(tool)]
    choice = bound.get("tool_choice")
    if isinstance(choice, Mapping):
        bound["tool_choice"] = _to_openai_choice(choice)
        if choice.get("disable_parallel_tool_use"):
            bound["parallel_tool_calls"] = False
    elif choice == "any":
        bound["tool_choice"] = "required"
    provider_only = ("betas", "thinking", "mcp_servers", "context_management", "cache_control")
    note_model_settings({name: bound.pop(name) for name in provider_only if name in bound})
    structured = bound.pop("output_config", None) or bound.pop("output_format", None)
    if structured:
        form = structured.get("format", structured)
        if form.get("type") == "json_schema":
            schema = {"name": "output", "schema": form["schema"], "strict": True}
            bound["response_format"] = {"type": "json_schema", "json_schema": schema}
    if "response_format" in bound:
        # In the body, not as an argument: with the argument langchain-openai parses through the SDK, which insists on
        # strict tools that only an OpenAI author would have bound.
        bound["extra_body"] = {
            **(bound.get("extra_body") or {}),
            "response_format": bound.pop("response_format"),
        }
    return bound


def _to_openai_tools(tool: Any) -> Iterable[dict[str, Any]]:
    if not isinstance(tool, Mapping):
        return (convert_to_openai_tool(tool),)
    if "functionDeclarations" in tool:
        return [convert_to_openai_tool(dict(function)) for function in tool["functionDeclarations"]]
    if "input_schema" in tool:
        known = {name: tool[name] for name in ("name", "description", "input_schema") if name in tool}
        return (convert_to_openai_tool(known),)
    if tool.get("type") not in (None, "function", "object"):
        raise ConfigError(provider_tool(tool.get("type")))
    return (convert_to_openai_tool(dict(tool)),)


def _to_openai_choice(choice: Mapping[str, Any]) -> Any:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice["name"]}}
    return {"any": "required", "auto": "auto", "none": "none"}.get(str(kind), choice)


def model_name(author: Any) -> str:
    """Return the model the author named, else the class of the author's model."""
    for field in ("model_name", "model", "model_id"):
        name = getattr(author, field, None)
        if isinstance(name, str) and name:
            return name
    return type(author).__name__


def agent_name(metadata: Mapping[str, Any]) -> str | None:
    """Return the agent's own name where it has one, else the path of graph nodes such as `researcher/model`."""
    name = metadata.get("lc_agent_name")
    if isinstance(name, str):
        return name
    namespace = metadata.get("langgraph_checkpoint_ns") or ""
    path = "/".join(part.split(":")[0] for part in namespace.split("|") if not part.isdigit())
    return path or metadata.get("langgraph_node")


def tool_output(output: Any, tool_call_id: str | None) -> tuple[str, bool]:
    """Return what the model is told of a tool's run, as text, and whether it is told of an error."""
    messages = [message for message in _tool_messages(output) if message.tool_call_id == tool_call_id]
    if messages:
        return messages[-1].text, messages[-1].status == "error"
    if isinstance(output, ToolMessage):
        return output.text, output.status == "error"
    return str(output), False


def _tool_messages(output: Any) -> Iterable[ToolMessage]:
    """Yield the tool messages in a tool's output: itself, in a list, or in a `Command`'s update."""
    update = getattr(output, "update", None)
    if isinstance(output, ToolMessage):
        yield output
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from _tool_messages(item)
    elif isinstance(update, Mapping):
        yield from _tool_messages(update.get("messages"))
    elif isinstance(update, (list, tuple)):
        yield from _tool_messages([item for item in update if isinstance(item, ToolMessage)])
