"""State shared between attempts, found by its effect: a prompt that holds what another rollout's model wrote before.

A checkpointer with a fixed thread id, a memory on its default storage, a session id used twice or a list in a module
all let one attempt read another's answers. Such attempts are no independent samples: comparing them teaches nothing.

A text counts as another rollout's only if no prompt of any rollout held it before that rollout wrote it: few-shot
examples, templates, retrieved documents and tool results, which a model may copy, do not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from woodshed.types import Message, ModelCall, Trajectory, identity

WHOLE_CHARS = 20
"""Length at which a whole answer that stands verbatim in another rollout's prompt is no coincidence."""
PART_CHARS = 40
"""The same for a part of an answer."""
FIRST_CHARS = 80
"""The same where no earlier rollout of the scenario shows what its prompt looks like without other rollouts' text."""
_BLOCK = 20
_QUOTED_CHARS = 120
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What the model of one rollout wrote in one call."""

    source: Trajectory
    call: ModelCall
    message: Message
    text: str
    ended_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Text of one rollout in the prompt of another."""

    answer: _Answer
    reader: Trajectory
    text: str


def shared_state(trajectories: Sequence[Trajectory]) -> list[str]:
    """Return a warning for every scenario with a rollout whose prompt holds text that another rollout sampled before.

    Args:
        trajectories: Rollouts of one or more scenarios, such as those of one step, in any order.
    """
    seen = _Seen(trajectories)
    found: dict[str, list[_Found]] = defaultdict(list)
    for reader in trajectories:
        if (hit := seen.foreign_text(reader)) is not None:
            found[reader.scenario_id].append(hit)
    return [_warning(scenario_id, hits) for scenario_id, hits in found.items()]


def _warning(scenario_id: str, hits: Sequence[_Found]) -> str:
    first = min(hits, key=lambda hit: hit.reader.started_s)
    source, quoted = first.answer.source, first.text[:_QUOTED_CHARS]
    where = "" if source.scenario_id == scenario_id else f" of scenario {source.scenario_id!r}"
    more = f" ({len(hits)} rollouts of the scenario read others' text)" if len(hits) > 1 else ""
    return (
        f"rollouts share state: a prompt of rollout {first.reader.rollout_id} of scenario {scenario_id!r} holds what "
        f"rollout {source.rollout_id}{where} wrote before: {quoted!r}{more}. Attempts that read each other cannot be "
        "compared. Make the agent's memory new in every rollout: in LangGraph a checkpointer or a thread_id of its own "
        "(uuid4), in CrewAI a crew with memory off or a storage of its own, in ADK a session of its own, in your own "
        "code no list or dict at module level"
    )


class _Seen:
    """What the models of all rollouts wrote, and when any prompt first held which text."""

    def __init__(self, trajectories: Sequence[Trajectory]) -> None:
        self._first_seen_s: dict[str, float] = {}
        self._answers_after: dict[tuple[object, object], _Answer] = {}
        self._blocks: dict[str, _Answer] = {}
        self._earliest: dict[str, Trajectory] = {}
        for trajectory in sorted(trajectories, key=_started):
            if trajectory.calls:
                self._earliest.setdefault(trajectory.scenario_id, trajectory)
            for call in trajectory.calls:
                for message in call.tokens.messages:
                    self._note_prompt(_text(message), call.tokens.started_s)
        for answer in sorted((a for t in trajectories for a in _answers(t)), key=lambda a: a.ended_s):
            if answer.call.tokens.messages:
                asked = identity(answer.call.tokens.messages[-1])
                self._answers_after.setdefault((asked, identity(answer.message)), answer)
            for start in range(0, len(answer.text) - _BLOCK + 1, _BLOCK):
                self._blocks.setdefault(answer.text[start : start + _BLOCK], answer)

    def _note_prompt(self, text: str, started_s: float) -> None:
        self._first_seen_s[text] = min(started_s, self._first_seen_s.get(text, started_s))

    def foreign_text(self, reader: Trajectory) -> _Found | None:
        """Return the first text in a prompt of `reader` that another rollout wrote, or None."""
        is_first = self._earliest.get(reader.scenario_id) is reader
        own: list[str] = []
        answered = 0
        agents: set[str | None] = set()
        for call in sorted(reader.calls, key=lambda c: c.tokens.started_s):
            # A framework may send an own answer back in other words, but none that the model has not given.
            assistants = sum(m.role == "assistant" for m in call.tokens.messages)
            hit = self._history(reader, call, own, is_first=is_first) if assistants > answered else None
            agent = call.note.agent if call.note else None
            if hit is None and agent not in agents:
                hit = self._quotation(reader, call, own, is_first=is_first)
            if hit is not None:
                return hit
            agents.add(agent)
            own += [*map(_text, call.tokens.messages), *(_text(m.message) for m in call.tokens.completions)]
            answered += len(call.tokens.completions)
            own += [m.reasoning for m in call.tokens.completions if m.reasoning]
        return None

    def _history(self, reader: Trajectory, call: ModelCall, own: Sequence[str], *, is_first: bool) -> _Found | None:
        """Return another rollout's answer that stands in the prompt behind the message that it answered there."""
        for asked, said in pairwise(call.tokens.messages):
            answer = self._answers_after.get((identity(asked), identity(said))) if said.role == "assistant" else None
            if answer is None or not self._is_foreign(answer, answer.text, reader, call, own):
                continue
            # Few-shot examples may be questions of other scenarios with short answers, which a model gives by itself.
            if (is_first or answer.source.scenario_id != reader.scenario_id) and len(answer.text) < PART_CHARS:
                continue
            return _Found(answer=answer, reader=reader, text=answer.text)
        return None

    def _quotation(self, reader: Trajectory, call: ModelCall, own: Sequence[str], *, is_first: bool) -> _Found | None:
        """Return a long enough part of another rollout's answer that stands anywhere in the prompt."""
        earliest = self._earliest.get(reader.scenario_id)
        usual = {_text(m) for c in (earliest.calls if earliest and not is_first else ()) for m in c.tokens.messages}
        for text in (t for m in call.tokens.messages if (t := _text(m)) not in usual):
            position = 0
            while position + _BLOCK <= len(text):
                answer = self._blocks.get(text[position : position + _BLOCK])
                if answer is None or answer.source.rollout_id == reader.rollout_id:
                    position += 1
                    continue
                common = _common(text, answer.text, position)
                whole = common == answer.text and len(common) >= WHOLE_CHARS
                is_long = len(common) >= (FIRST_CHARS if is_first else PART_CHARS) or (whole and not is_first)
                if is_long and self._is_foreign(answer, common, reader, call, own):
                    return _Found(answer=answer, reader=reader, text=common)
                position += _BLOCK
        return None

    def _is_foreign(self, answer: _Answer, text: str, reader: Trajectory, call: ModelCall, own: Sequence[str]) -> bool:
        """Whether `text` came into the world with `answer`, before the call, and not by the reader itself."""
        if answer.source.rollout_id == reader.rollout_id or answer.ended_s > call.tokens.started_s:
            return False
        if any(text in written for written in own):
            return False
        return not any(at_s < answer.ended_s and text in prompt for prompt, at_s in self._first_seen_s.items())


def _answers(trajectory: Trajectory) -> Iterator[_Answer]:
    for call in trajectory.calls:
        ended_s = call.tokens.started_s + call.tokens.latency_s
        for completion in call.tokens.completions:
            if text := _text(completion.message):
                yield _Answer(
                    source=trajectory, call=call, message=completion.message, text=text, ended_s=ended_s
                )  # fmt: skip


def _started(trajectory: Trajectory) -> float:
    return min((c.tokens.started_s for c in trajectory.calls), default=trajectory.started_s)


def _text(message: Message) -> str:
    """Return what a message says, tool requests included, with all white space as one blank."""
    parts: Iterable[str] = (message.content or "", *(f"{r.name}({r.arguments})" for r in message.tool_requests))
    return _SPACE.sub(" ", " ".join(parts)).strip()


def _common(text: str, answer: str, position: int) -> str:
    """Return the longest text around `position` that stands in both; the block there is known to."""
    start = answer.find(text[position : position + _BLOCK])
    end, stop = start + _BLOCK, position + _BLOCK
    while start and position and answer[start - 1] == text[position - 1]:
        start, position = start - 1, position - 1
    while end < len(answer) and stop < len(text) and answer[end] == text[stop]:
        end, stop = end + 1, stop + 1
    return answer[start:end]
