"""The judge: an OpenAI-compatible chat model, or your own async function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from woodshed.chat.model import Answer, ChatModel, Question
from woodshed.chat.retry import is_permanent
from woodshed.errors import ConfigError, JudgeError, JudgeRefused, WoodshedError

AskFunction = Callable[[str, str, dict[str, Any]], Awaitable[str]]
"""Your own judge, `async (system, user, schema) -> reply`; `schema` is the JSON Schema of the reply."""


@dataclass(frozen=True, slots=True)
class Judge(ChatModel):
    """A chat model at any OpenAI-compatible address that compares the attempts of a group.

    Example:
        `Judge("gpt-5-mini")`, `Judge("qwen3:32b", base_url="http://localhost:11434/v1")`, or `Judge("engine/judge")`
        for a model that the engine serves.
    """

    role: ClassVar[str] = "judge"
    error: ClassVar[type[WoodshedError]] = JudgeError
    permanent_error: ClassVar[type[WoodshedError]] = JudgeRefused


class FunctionJudge:
    """The user's async function as a judge, named by its qualified name. Its tokens and cost are not known."""

    def __init__(self, function: AskFunction) -> None:
        self.function = function
        self.name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

    async def ask(self, question: Question) -> Answer:
        """Return the function's reply. In a repair request the complaint is appended to the user message."""
        user = question.user
        if question.refused is not None:
            reply, complaint = question.refused
            user = f"{user}\n\nYour earlier reply was:\n{reply}\n\n{complaint}"
        try:
            result = self.function(question.system, user, question.schema)
            text = await result if inspect.isawaitable(result) else result
        except Exception as error:
            # User code: whatever it raises, the group has no verdict.
            kind = JudgeRefused if is_permanent(error) else JudgeError
            raise kind(f"judge {self.name!r} raised {type(error).__name__}: {error}") from error
        if not inspect.isawaitable(result) or not isinstance(text, str):
            raise ConfigError(
                f"judge {self.name!r} returned {type(text).__name__}; expected an async function that returns str"
            )
        return Answer(text=text)
