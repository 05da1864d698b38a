"""`python -m woodshed.engine.vllm.read_calls MODEL`: which tool parsers read calls in sampled answers?

Standard input is JSON: `{"tools": [...], "answers": [[token ids], ...]}`. The last line of standard output is a
`woodshed.types.ReadCalls` as JSON. A parser that needs tokens which the model's tokenizer lacks cannot serve it, and is
left out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tokenizers import get_tokenizer
from vllm.tool_parsers import ToolParserManager

from woodshed.engine.vllm.tool_parsers import OWN

_NAME = re.compile(r"[\w.:/-]{1,128}")


def read_calls(tokenizer: Any, tools: list[dict[str, Any]], answers: list[list[int]]) -> dict[str, int]:
    """Return parser → number of answers (token ids) in which it reads a tool call; `tools` were offered."""
    for plugin in OWN.values():
        ToolParserManager.import_tool_parser(plugin)
    counts = {name: _count(name, tokenizer, tools, answers) for name in ToolParserManager.list_registered()}
    return {name: count for name, count in counts.items() if count}


def _count(name: str, tokenizer: Any, tools: list[dict[str, Any]], answers: list[list[int]]) -> int:
    try:
        return sum(_reads(name, tokenizer, tools, answer) for answer in answers)
    except Exception:  # parsers raise anything where a tokenizer does not fit them
        return 0


def _reads(name: str, tokenizer: Any, tools: list[dict[str, Any]], answer: list[int]) -> bool:
    request = ChatCompletionRequest(
        model="any", messages=[{"role": "user", "content": "?"}], tools=tools, tool_choice="auto"
    )
    parser = ToolParserManager.get_tool_parser(name)(tokenizer, request.tools)
    request = parser.adjust_request(request)
    found = parser.extract_tool_calls(
        tokenizer.decode(answer, skip_special_tokens=request.skip_special_tokens), request=request
    )
    # The name may be of a tool that was not offered: what is asked is whether the form is read.
    return any(
        _NAME.fullmatch(call.function.name) and isinstance(json.loads(call.function.arguments), dict)
        for call in found.tool_calls
    )


def main() -> None:
    """Read the answers, try the parsers, print the counts."""
    logging.disable(logging.CRITICAL)
    asked, tokenizer = json.load(sys.stdin), get_tokenizer(sys.argv[1])
    parsers = read_calls(tokenizer, asked["tools"], asked["answers"])
    print(json.dumps({"parsers": parsers, "texts": [tokenizer.decode(answer) for answer in asked["answers"]]}))


if __name__ == "__main__":
    main()
