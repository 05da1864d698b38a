"""What every way of asking a judge is given: the judge and the settings of one `Ruler`."""

from __future__ import annotations

from dataclasses import dataclass

from woodshed.chat.model import SupportsAsk
from woodshed.rewards.budget import Budget
from woodshed.rewards.cache import VerdictCache
from woodshed.rewards.prompt import PromptSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """A judge with the settings of one `Ruler`."""

    client: SupportsAsk
    temperature: float
    prompt_settings: PromptSettings
    permutations: int
    seed: int
    tolerance: float
    cache: VerdictCache
    budget: Budget

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.client.name
