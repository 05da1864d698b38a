"""Ask one judge for one label at a time: each reply validated, repaired once and cached."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from woodshed.chat.model import Answer, Question
from woodshed.errors import JudgeError
from woodshed.rewards.budget import Bill, paid_answer
from woodshed.rewards.judge_runner import why_unusable
from woodshed.rewards.labels import LabelReply, Labels, read_label
from woodshed.rewards.prompt import prompt_text
from woodshed.rewards.runner import Runner
from woodshed.rewards.verdict import AttemptScore
from woodshed.types import FORMAT, Reading, Trajectory

_log = logging.getLogger("woodshed.rewards")
_REPEATED_CHARS = 2_000
"""Characters of a refused reply that a repair request quotes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRunner(Runner):
    """A judge with the settings of one `Ruler`, asked for one label in each request."""

    attempts_per_request: ClassVar[int]
    """Number of attempts that one request shows."""

    async def value(self, question: Question, labels: Labels, bill: Bill) -> float:
        """Return the mean value of the judge's label, 0 to 1.

        Raises:
            JudgeError: neither the reply nor the repaired one is one of the labels.
            CostCeilingError: the request would exceed the run's cost ceiling.
        """
        key = self._key(question)
        stored = self.cache.get(key)
        if stored is not None:
            return stored[0].score
        value = await self._ask_twice(question, labels, bill)
        self.cache.put(key, [AttemptScore(score=value, explanation="")])
        return value

    def reading(self, shown: Sequence[Trajectory], *scores: float) -> Reading:
        """Return the record of one request that showed these attempts in this order."""
        return Reading(judge=self.name, rollouts=tuple(t.rollout_id for t in shown), scores=scores)

    def _key(self, question: Question) -> str:
        """Return a hash of everything the label depends on."""
        content = [FORMAT, "label", self.name, self.temperature, question.system, question.user]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    async def _ask_twice(self, question: Question, labels: Labels, bill: Bill) -> float:
        answer, reply = await self._ask(question, labels, bill)
        if reply.value is None:
            _log.info("asking judge %r to repair its reply: %s", self.name, "; ".join(reply.problems))
            problems = "\n".join(f"- {p}" for p in reply.problems)
            complaint = prompt_text("label_repair.md").format(problems=problems, labels=", ".join(labels)).strip()
            refused = (answer.text[:_REPEATED_CHARS], complaint)
            _, reply = await self._ask(replace(question, refused=refused), labels, bill)
        if reply.value is None:
            raise JudgeError(
                f"judge {self.name!r} gave an invalid reply twice: {'; '.join(reply.problems)}. Name a stronger judge, "
                "give one that reasons more room (Judge(max_tokens=...)), or use another mode (Ruler(mode=...))"
            )
        return reply.value

    async def _ask(self, question: Question, labels: Labels, bill: Bill) -> tuple[Answer, LabelReply]:
        answer = await paid_answer(self.client, question, self.budget, bill)
        reply = read_label(answer, labels)
        if reply.value is None or answer.is_refusal:
            reply = LabelReply(value=None, problems=(*why_unusable(answer), *reply.problems))
        return answer, reply
