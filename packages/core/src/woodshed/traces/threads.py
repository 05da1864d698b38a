"""Single model calls → conversations: a call continues the one whose messages its prompt begins with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from woodshed.traces.conversation import Conversation, Json, Turn, identity
from woodshed.types import ModelCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One model call: its prompt and what the model answered."""

    prompt: Sequence[Json]
    answers: Sequence[Json] = ()
    """One for each completion; empty where nothing was recorded of the answer."""
    tools: tuple[Json, ...] = ()
    agent: str | None = None
    parent_call_id: str | None = None
    call: ModelCall | None = None


class Thread:
    """A conversation that is being put together."""

    def __init__(self, first: Answered) -> None:
        """Start with no message yet."""
        self.first = first
        self.turns: list[Turn] = []
        self.identities: list[object] = []

    def fits(self, answered: Answered, prompt: Sequence[object]) -> bool:
        """Whether the prompt begins with everything said here, under the same tools, by the same agent."""
        said = len(self.identities)
        same = self.first.tools == answered.tools and self.first.agent == answered.agent
        return same and len(prompt) >= said and list(prompt[:said]) == self.identities

    def extend(self, answered: Answered, prompt: Sequence[object], completion: int) -> None:
        """Add the new part of the prompt as context, and the answer."""
        known = len(self.turns)
        self.turns += [Turn(message=message) for message in answered.prompt[known:]]
        self.identities = list(prompt)
        if answered.answers:
            answer = answered.answers[completion]
            self.turns.append(Turn(message=answer, sampled=True, call=answered.call, completion=completion))
            self.identities.append(identity(answer))


def threads(calls: Iterable[Answered], *, prefix: str) -> tuple[Conversation, ...]:
    """Return the fewest conversations that hold every answer once, each after exactly the messages it answered.

    Args:
        calls: In order of start. Those whose answer was thrown away become conversations of their own, at the end.
        prefix: Start of the conversations' ids.
    """
    calls = list(calls)
    prompts = {id(call): [identity(message) for message in call.prompt] for call in calls}
    used = [call for call in calls if not _thrown_away(call)]
    found: list[Thread] = []
    for number, answered in enumerate(used):
        prompt = prompts[id(answered)]
        fitting = [thread for thread in found if thread.fits(answered, prompt)]
        thread = max(fitting, key=lambda t: len(t.turns), default=None)
        if thread is None:
            thread = Thread(answered)
            found.append(thread)
        later = [prompts[id(call)] for call in used[number + 1 :]] if len(answered.answers) > 1 else []
        thread.extend(answered, prompt, _chosen(answered, len(prompt), later))
    for answered in calls:
        if _thrown_away(answered):
            found.append(Thread(answered))
            found[-1].extend(answered, prompts[id(answered)], 0)
    return tuple(
        Conversation(
            id=f"{prefix}/{number}",
            turns=tuple(thread.turns),
            tools=thread.first.tools,
            agent=thread.first.agent,
            parent_call_id=thread.first.parent_call_id,
        )
        for number, thread in enumerate(found)
    )


def _thrown_away(answered: Answered) -> bool:
    return answered.call is not None and answered.call.superseded


def _chosen(answered: Answered, place: int, later: Sequence[Sequence[object]]) -> int:
    """Return which completion a later prompt holds; the first where none does."""
    own = [identity(answer) for answer in answered.answers]
    sent = {prompt[place] for prompt in later if len(prompt) > place}
    return next((k for k, answer in enumerate(own) if answer in sent), 0)
