"""Check what serves the policy: vLLM's endpoints, the chat template and the tool parser."""

from __future__ import annotations

import json
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import ParseRequest, RenderRequest, Serving

_USER: dict[str, Any] = {"role": "user", "content": "Is it raining in Oslo?"}
_ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes, take an umbrella."}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_ARGUMENTS = {"city": "Oslo"}
_CALL: dict[str, Any] = {
    "role": "assistant",
    "content": None,
    # Nine letters and digits: one family of templates takes no other id.
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "get_weather", "arguments": json.dumps(_ARGUMENTS)},
        }
    ],
}


def check_endpoints(serving: Serving) -> Finding:
    """Check that vLLM has all endpoints that woodshed needs."""
    if serving.missing_paths:
        return failed(
            "vLLM endpoints",
            f"{', '.join(serving.missing_paths)} not served",
            "`woodshed engine install` brings the vLLM woodshed is tested with",
        )
    return passed("vLLM endpoints", f"all present, up to {serving.max_model_len:,} tokens")


async def check_template(client: EngineClient, model: str, serving: Serving) -> Finding:
    """Check that an answer survives rendering with the chat template and parsing, and renders the same again."""
    prompt, answer, problem = await _rendered(client, model, _ANSWER, (), serving)
    if answer is None:
        return warned("chat template", problem, "`woodshed sft` from a file is not possible with this template")
    parsed = await client.parse(model, ParseRequest(messages=(_USER,), prompt_ids=prompt, token_ids=answer))
    if (parsed.content or "").strip() != _ANSWER["content"]:
        return warned(
            "chat template",
            f"{_ANSWER['content']!r} is read back as {parsed.content!r}",
            "a model that thinks needs its ServedModel.reasoning_parser, else its thoughts are part of the answer",
        )
    again, *_ = await _rendered(client, model, {"role": "assistant", "content": parsed.content}, (), serving)
    if again != prompt:
        return warned(
            "chat template", "the same conversation renders differently twice", "does the template insert a date?"
        )
    return passed("chat template", f"an answer of {len(answer)} tokens is read back and written the same")


async def check_tool_parser(client: EngineClient, model: str, serving: Serving) -> Finding:
    """Check that the tool parser reads back a tool call rendered by the chat template."""
    name = serving.tool_call_parser
    if name is None:
        return passed("tool parser", "none: an agent without tools")
    offered = (await client.render(model, RenderRequest(messages=(_USER,), tools=(_TOOL,)))).token_ids
    plain = (await client.render(model, RenderRequest(messages=(_USER,)))).token_ids
    if offered == plain:
        return warned(
            "tool parser",
            "the chat template does not tell the model which tools there are",
            "for an agent with tools take another model, or ServedModel(chat_template=...)",
        )
    prompt, answer, problem = await _rendered(client, model, _CALL, (_TOOL,), serving)
    if answer is None:
        return warned("tool parser", problem, "a call may be trained that no template would have written")
    request = ParseRequest(messages=(_USER,), tools=(_TOOL,), prompt_ids=prompt, token_ids=answer)
    parsed = await client.parse(model, request)
    read = [(r.name, _as_json(r.arguments)) for r in parsed.tool_requests]
    if read != [("get_weather", _ARGUMENTS)]:
        problem = f"a call rendered by the template is read by {name!r} as {read}, with text {parsed.content!r}"
        return failed(
            "tool parser",
            problem,
            "set Policy.tool_call_parser to vLLM's parser of this model's family (hermes, llama3_json, mistral, …), or "
            "to None for an agent without tools",
        )
    return passed("tool parser", f"{name!r} reads the template's calls")


async def _rendered(
    client: EngineClient, model: str, turn: dict[str, Any], tools: tuple[dict[str, Any], ...], serving: Serving
) -> tuple[tuple[int, ...], tuple[int, ...] | None, str]:
    """Return the prompt's tokens and the turn's tokens before its stop token; or None and the problem."""
    prompt = (await client.render(model, RenderRequest(messages=(_USER,), tools=tools))).token_ids
    closed = RenderRequest(messages=(_USER, turn), tools=tools, generation_prompt=False)
    whole = (await client.render(model, closed)).token_ids
    if whole[: len(prompt)] != prompt:
        return prompt, None, "an answer does not extend its prompt: the template then renders the question differently"
    rest = whole[len(prompt) :]
    end = next((k for k, token in enumerate(rest) if token in serving.stop_ids), None)
    if end is None:
        return prompt, None, f"an answer does not end with a token the model stops at ({list(serving.stop_ids)})"
    return prompt, rest[:end], ""


def _as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
