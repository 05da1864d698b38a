"""Who judges: an OpenAI-compatible chat model, or any async function of the request."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from woodshed.chat.model import Answer, ChatModel, Question
from woodshed.errors import ConfigError, JudgeError, WoodshedError

AskFunction = Callable[[str, str, dict[str, Any]], Awaitable[str]]
"""`async (system, user, schema) -> reply`: your own judge; `schema` is the JSON Schema of the reply."""


@dataclass(frozen=True, slots=True)
class Judge(ChatModel):
    """A chat model that compares the attempts of a group, at any OpenAI-compatible address.

    Example:
        `Judge("gpt-5-mini")`, `Judge("qwen3:32b", base_url="http://localhost:11434/v1")`, or `Judge("engine/judge")`
        for a model that the engine serves.
    """

    role: ClassVar[str] = "judge"
    error: ClassVar[type[WoodshedError]] = JudgeError


class FunctionJudge:
    """The user's own async function as judge, known by its qualified name; its tokens and cost are not known."""

    def __init__(self, function: AskFunction) -> None:
        self.function = function
        self.name = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"

    async def ask(self, question: Question) -> Answer:
        """Return the function's reply; in a repair the complaint follows the request."""
        user = question.user
        if question.refused is not None:
            reply, complaint = question.refused
            user = f"{user}\n\nYour earlier reply was:\n{reply}\n\n{complaint}"
        try:
            coming = self.function(question.system, user, question.schema)
            text = await coming if inspect.isawaitable(coming) else coming
        except Exception as error:
            # The user's code at our boundary: whatever it raises, the group has no verdict.
            raise JudgeError(f"judge {self.name!r} raised {type(error).__name__}: {error}") from error
        if not inspect.isawaitable(coming) or not isinstance(text, str):
            raise ConfigError(
                f"judge {self.name!r} gave {type(text).__name__}; expected an async function that returns str"
            )
        return Answer(text=text)
