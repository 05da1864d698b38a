"""What an agent that never errs would do, taken down from the framework that is practised: the form, for a small model.

A large model knows how to call tools, and needs none of this. The agent runs as its author wrote it, against a scripted
engine that searches for the words of the question, reads the mails that prove the answer, and answers.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archive import words_of
from make_archive import Question

import woodshed
from woodshed.testing import Reply, ScriptedEngine, call_tools, in_order, scripted_rollout
from woodshed.types import ToolRequest

_FILLER = frozenset(
    "a about and at come do does for get how in is many meet much of on our pay charge deliver per repair the time to "
    "we what where which day".split()
)
_SENTENCES = {
    "count": "It is {truth}.",
    "price": "It is {truth}.",
    "place": "We meet at {truth}.",
    "meeting": "We meet on {truth}.",
    "day": "We deliver on {truth}.",
    "visit": "They come on {truth}.",
    "supply": "They charge {truth}.",
    "bill": "They charge {truth}.",
}


def steps(question: Question) -> list[Reply]:
    """Return the calls that answer the question: search, read each proof, answer."""
    names = [word for word in words_of(question.text) if word.lower() not in _FILLER]
    said = _SENTENCES[question.kind].format(truth=question.truth)
    calls = [
        ("search_mail", {"words": " ".join(names)}),
        *(("read_mail", {"id": mail}) for mail in question.proof),
        ("answer", {"text": said, "sources": list(question.proof)}),
    ]
    return [
        call_tools(ToolRequest(id=f"call_{place}", name=name, arguments=json.dumps(arguments)))
        for place, (name, arguments) in enumerate(calls)
    ]


def write_talks(rollout: woodshed.RolloutFunction, questions: Sequence[Question], file: Path, *, count: int) -> Path:
    """Write talks about `count` of the questions to a file, one a line, and return it."""
    chosen = random.Random("talks").sample(questions, count)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(_talk(rollout, question)) + "\n" for question in chosen))
    return file


def _talk(rollout: woodshed.RolloutFunction, question: Question) -> dict[str, Any]:
    replies = steps(question)
    with ScriptedEngine(in_order(*replies)) as engine, scripted_rollout(engine):
        running = rollout(question)
        if inspect.isawaitable(running):
            asyncio.run(_finish(running))
        last = engine.requests[-1].body
    (call,) = replies[-1].tool_requests
    function = {"name": call.name, "arguments": call.arguments}
    final = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call.id, "type": "function", "function": function}],
    }
    return {"messages": [*last["messages"], final], "tools": last["tools"]}


async def _finish(running: Any) -> None:
    await running
