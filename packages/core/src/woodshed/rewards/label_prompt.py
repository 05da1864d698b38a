"""Group → requests that are answered with one label: a grade of one attempt, or the better one of two.

All requests of a group share one fence code and begin with the same text, so that a server's prefix cache holds the
rubric, the task, and, for a pair, the first attempt.
"""

from __future__ import annotations

from collections.abc import Sequence

from woodshed.chat.model import Question
from woodshed.rewards.labels import Labels, label_schema
from woodshed.rewards.prompt import PromptSettings, fence_code, fenced, prompt_text, transcripts
from woodshed.types import Trajectory

GRADES: Labels = {str(digit): digit / 9 for digit in range(10)}
"""Grade of one attempt → its score. Each is one token in the vocabularies of all common models."""
FIRST_IS_BETTER: Labels = {"A": 1.0, "B": 0.0}
"""Better one of two attempts → whether that is the first."""
_LABEL_TOKENS = 16
"""Limit of a reply that should be one token, with room for decoration such as `**Score: 7**`."""


class LabelPrompts:
    """Builds the requests of one group."""

    def __init__(self, attempts: Sequence[Trajectory], settings: PromptSettings, salt: str) -> None:
        self._settings = settings
        self._texts = transcripts(attempts, settings)
        self._fence = fence_code(salt, [self._texts.shared, *self._texts.attempts])

    def single(self, index: int) -> Question:
        """Return the request for a grade of one attempt."""
        return self._question("single_system.md", [("A", index)], GRADES, "The grade of the attempt, a digit:")

    def pair(self, first: int, second: int) -> Question:
        """Return the request to compare two attempts, shown in this order."""
        shown = [("A", first), ("B", second)]
        return self._question("pairs_system.md", shown, FIRST_IS_BETTER, "The letter of the better attempt:")

    def _question(self, system: str, shown: Sequence[tuple[str, int]], labels: Labels, last_line: str) -> Question:
        attempts = [(name, self._texts.attempts[index]) for name, index in shown]
        return Question(
            system=prompt_text(system).format(rubric=self._settings.rubric).strip(),
            user=f"{fenced(self._fence, self._texts.shared, attempts)}\n{last_line}",
            schema=label_schema(labels),
            label_tokens=_LABEL_TOKENS,
        )
