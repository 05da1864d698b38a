"""A tool parser for vLLM, `json`: it reads calls that a model writes as plain JSON, with or without marks around them.

vLLM's own parsers want a token or tag of their model's family before the JSON, or a list. A call is an object with a
`name` and with `arguments` or `parameters` that are an object; any other JSON is part of the answer. vLLM imports this
module as a plugin.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import regex
from partial_json_parser.core.options import Allow
from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers import ToolParser, ToolParserManager
from vllm.tool_parsers.utils import partial_json_loads

_OPENING = regex.compile(
    r"(?:<\|?(?:tool|function|python)\w*\|?>\s*|```\w*\s*)?"
    r"(?:\[\s*)?\{\s*\"(?:name|arguments|parameters|type|function)\"\s*:"
)
"""How a call may begin: perhaps with a mark and the bracket of a list, and with a key that calls have."""
_FENCE = "```"
_DECODER = json.JSONDecoder()


def read_calls(text: str, *, is_whole: bool) -> tuple[str, list[FunctionCall]]:
    """Return what an answer says before its first call, and its calls. What stands between or after them is dropped.

    Args:
        text: The answer, or its beginning.
        is_whole: Whether nothing follows. If not, an end that may become a call is neither said nor called yet. vLLM
            tells no parser that a stream is over, so there a call that was cut is dropped.
    """
    calls: list[FunctionCall] = []
    said, at = text, 0
    while (found := _OPENING.search(text, at, partial=not is_whole)) is not None:
        before = text[: found.start()]
        if text.startswith(_FENCE, found.start()) and before.count(_FENCE) % 2:
            at = found.start() + len(_FENCE)  # ends a block, and begins none
            continue
        if found.partial:
            return (said if calls else before), calls
        start = text.index("{", found.start())
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            if not is_whole and _is_begun(text[start:]):
                return (said if calls else before), calls
            at = start + 1
            continue
        if (call := _call(value)) is not None:
            said = said if calls else before
            calls.append(call)
    return said, calls


def _is_begun(text: str) -> bool:
    """Whether more text can make an object of JSON of this."""
    try:
        partial_json_loads(text, Allow.ALL)
    except (ValueError, RecursionError):  # also the library's own MalformedJSON
        return False
    return True


def _call(value: Any) -> FunctionCall | None:
    inner = value.get("function", value)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        return None
    arguments = inner.get("arguments", inner.get("parameters"))
    if not isinstance(arguments, dict):
        return None
    return FunctionCall(name=inner["name"], arguments=json.dumps(arguments, ensure_ascii=False))


class JsonCalls(ToolParser):
    """Reads calls written as plain JSON."""

    def extract_tool_calls(self, model_output: str, request: ChatCompletionRequest) -> ExtractedToolCallInformation:
        """Return the calls of a finished answer, and the text before them; without a call, all of the text."""
        said, calls = read_calls(model_output, is_whole=True)
        return ExtractedToolCallInformation(
            tools_called=bool(calls),
            tool_calls=[ToolCall(function=call) for call in calls],
            content=(said if said.strip() else None) if calls else model_output,
        )

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: ChatCompletionRequest,
    ) -> DeltaMessage | None:
        """Return what has become certain with this piece: text, and calls, each of them whole."""
        said, calls = read_calls(current_text, is_whole=False)
        already, _ = read_calls(previous_text, is_whole=False)
        new = calls[len(self.prev_tool_call_arr) :]
        content = said[len(already) :]
        tool_calls = [self._delta(call) for call in new]
        return DeltaMessage(content=content or None, tool_calls=tool_calls) if content or tool_calls else None

    def _delta(self, call: FunctionCall) -> DeltaToolCall:
        self.current_tool_id = len(self.prev_tool_call_arr)
        # vLLM compares these two at the end of an answer, to send what was not sent.
        self.prev_tool_call_arr.append({"name": call.name, "arguments": call.arguments})
        self.streamed_args_for_tool.append(call.arguments)
        function = DeltaFunctionCall(name=call.name, arguments=call.arguments)
        return DeltaToolCall(index=self.current_tool_id, type="function", id=make_tool_call_id(), function=function)


ToolParserManager.register_module("json", module=JsonCalls)
