"""What an adapter supplies to be held to the contract: a few agents of its framework, and how they are run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NoReturn

import pytest
from pydantic import BaseModel

from woodshed.capture import Hook, Instrumentor
from woodshed.testing.replies import Reply

Tool = Callable[..., Any]
"""A plain Python function with type hints and a docstring; its name is the tool's name."""

AnswerMode = Literal["tool", "json_schema", "raw"]
"""How a typed answer is had: by a tool call, by constrained decoding, or either with the raw answer kept beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the caller of an agent gets back."""

    text: str = ""
    """The agent's final answer."""
    parsed: Mapping[str, Any] | None = None
    """The typed answer as plain data, where one was asked for."""
    raw: str | None = None
    """In answer mode `raw`: the text (or the tool's argument text) that `parsed` was made of."""
    record: Any = None
    """Everything the caller can see (the framework's own result, its events in order, its state after the run) as plain
    data without what differs between any two runs: ids, times, object addresses. Two runs of the same script have equal
    records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Streamed:
    """What the reader of a streamed run gets."""

    pieces: Sequence[str] = ()
    """The text of the final answer as it came, piece by piece."""
    outcome: Outcome = field(default_factory=Outcome)
    """`record` holds the stream's events; `text` may be empty where the framework only gives pieces."""


class Adapter(ABC):
    """The agents that the contract's rows put to work, built with the framework as its users build them.

    Rules for all builders:

    - The author's model is an OpenAI-compatible one named `gpt-4o-mini` at `base_url` with the API key `author`.
      No temperature or other sampling parameter is set.
    - Return the framework's own object. Do not wrap or instrument it: the rows switch the hooks on and off, and run
      the same object with and without. It is run many times, also by 32 tasks or threads at once (where an object of
      the framework cannot be shared, `run` makes its own copy).
    - `instruction` and the question reach the model word for word: the instruction inside the first (system) message of
      every prompt of that agent, the question inside a user message.
    - The agent keeps its conversation: a later prompt of the same run holds what the model said and every tool result.
    - A tool is offered under the function's `__name__`. Its result reaches the model as text that holds `str(result)`.
      Where it raises, the model is told so in the framework's own words and the agent goes on.
    - The SDK does not repeat failed calls (`max_retries=0`) unless a row asks for it.
    - Where the framework has no such thing, call `self.lacks("the reason")`.
    """

    framework: ClassVar[str]
    """Title of the adapter's column in the table."""
    not_applicable: ClassVar[Mapping[int, str]] = {}
    """Row → a reason that a stranger accepts. Such a row is reported as not applicable, never passed."""

    @abstractmethod
    def instrumentor(self) -> Instrumentor:
        """Return the adapter's instrumentor."""

    @abstractmethod
    def hooks(self) -> Sequence[Hook]:
        """Return everything that `instrument()` hooks."""

    @abstractmethod
    def assistant(
        self,
        base_url: str,
        *,
        tools: Sequence[Tool] = (),
        name: str = "assistant",
        instruction: str = "Answer in one sentence.",
        answer: type[BaseModel] | None = None,
        mode: AnswerMode = "json_schema",
        tool_choice: str | None = None,
        max_retries: int = 0,
    ) -> Any:
        """Return one agent that calls its model until the model answers without a tool call.

        Args:
            base_url: where the author's model is.
            tools: what the model is offered.
            name: the agent's name, as `CallMetadata.agent` is to say it.
            instruction: its system prompt.
            answer: type of the final answer; None is plain text. Never together with `tools`.
            mode: how a typed answer is had. For `tool` the model is offered one more tool (or only that one), and
                answers by calling it, at once or after an answer in prose; for `json_schema` the request carries a
                `response_format`; `raw` is either of the two, with `Outcome.raw` filled.
            tool_choice: `required`, `none` or a tool's name, in effect for every call; None leaves it to the framework.
                With `required` or a name the agent ends after the tool has run.
            max_retries: how often the OpenAI client repeats a call that failed with 429 or 5xx.
        """

    @abstractmethod
    def team(self, base_url: str, *, tools: Sequence[Tool]) -> Any:
        """Return an agent `planner` that can give work to the agents `red` and `blue`, also to both in one message.

        The instruction of each is `f"You are {name}."`. All three have `tools`. A member starts a conversation of its
        own with the work in a user message, and its final answer comes back to the planner as a tool result. Two
        delegations in one message run side by side where the framework does that.
        """

    @abstractmethod
    def delegation(self, member: str, work: str) -> tuple[str, Mapping[str, Any]]:
        """Return name and arguments of the tool call by which `team`'s planner gives `work` to `member`."""

    @abstractmethod
    def twins(self, base_url: str) -> Any:
        """Return an agent of two members (nodes, tasks, agents) that each call the model once without tools.

        Their messages are the same to the letter; neither prompt holds the other's answer.
        """

    @abstractmethod
    def handoff(self, base_url: str) -> Any:
        """Return an agent `front` that hands over to the agent `clerk`, which gives the final answer.

        The instruction of each is `f"You are {name}."`. Neither is offered other tools than the framework's own.
        """

    @abstractmethod
    def transfer(self) -> Reply:
        """Return what `front`'s model answers so that `clerk` takes over; any text where an edge leads there anyway."""

    @abstractmethod
    def retrying(self, base_url: str) -> Mapping[str, Any]:
        """Return agents whose framework throws the answer `bad` away and does the work again until it is `good`.

        One agent for each means that the framework has (a retry policy, a guardrail), keyed by that means' name. Each
        allows at least two retries. The work is one model call.
        """

    @abstractmethod
    def run_compacting(self, base_url: str, tools: Sequence[Tool]) -> None:
        """Run an agent that shortens its history by the framework's own means.

        The model calls the one tool it is offered at each of its turns, up to eight times in one run, then says `done`;
        a request that offers no tool is answered `SUMMARY: seven of each`. A prompt above 6,000 characters is answered
        400 in vLLM's words (`This model's maximum context length is ...`). Set the framework's limits so that
        history is replaced by that summary at least once, with at least one turn before it and one after.
        Ask several questions of one conversation where a single run is never compacted.
        """

    @abstractmethod
    def remembering(self, base_url: str) -> Callable[[str], None]:
        """Return a function that asks an agent one question, once a call, and keeps state from one call to the next.

        What keeps it is the framework's own (a saver, a session, a persisted flow), shared as an author does who did
        not think of it: the prompt of the second question holds what the model answered to the first.
        """

    @abstractmethod
    def run(self, agent: Any, question: str) -> Outcome:
        """Run an agent by the framework's sync entry point; exceptions pass as the framework raises them."""

    @abstractmethod
    async def arun(self, agent: Any, question: str) -> Outcome:
        """Run an agent by the framework's async entry point; exceptions pass as the framework raises them."""

    @abstractmethod
    async def stream(self, agent: Any, question: str) -> Streamed:
        """Run an agent so that the model's answers are streamed, read to the end by the framework's event stream."""

    def lacks(self, reason: str) -> NoReturn:
        """Say that the framework has no such thing: this part of the row is not applicable."""
        pytest.skip(f"not applicable: {reason}")
