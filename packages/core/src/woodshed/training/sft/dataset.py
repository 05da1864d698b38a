"""SFT examples from a run: the rollouts with the best scores, with the tokens that were sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.training.run.read_store import ReadStore
from woodshed.types import (
    Completion,
    ImportedConversation,
    ImportedSession,
    Judgement,
    ModelCall,
    SealedSession,
    TokenCall,
    Trajectory,
    check_number,
)

UNKNOWN_VERSION = -1
_BINS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SftExample:
    """One finished conversation to train on: recorded calls with tokens, or messages for the engine to render."""

    place: str
    """Where it comes from, for error messages: `line 3`, or the rollout's id."""
    scenario_id: str
    """All examples of one scenario are held out together."""
    calls: tuple[TokenCall, ...] = ()
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    def imported(self, rollout_id: str, policy: str) -> ImportedConversation | ImportedSession:
        """Return the example in the format the engine imports."""
        if self.calls:
            calls = tuple(c.model_copy(update={"call_id": f"{rollout_id}/{k}"}) for k, c in enumerate(self.calls))
            return ImportedSession(policy=policy, session=SealedSession(rollout_id=rollout_id, calls=calls))
        return ImportedConversation(rollout_id=rollout_id, policy=policy, messages=self.messages, tools=self.tools)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which rollouts of a run to train on."""

    min_score: float | None = None
    """Lowest score, 0 to 1; None means any."""
    top: int | None = None
    """Rollouts per group, best first, if its scores differ; None means 1, or all that reach `min_score` if set."""

    def __post_init__(self) -> None:
        """Refuse values that would select nothing."""
        if self.top is not None:
            check_number(self, "top", at_least=1, whole=True)
        if self.min_score is not None:
            check_number(self, "min_score", at_least=0)
        if self.min_score is not None and self.min_score > 1:
            raise ConfigError(f"min_score is {self.min_score}; expected a score from 0 to 1")

    def of(self, judgement: Judgement) -> list[str]:
        """Return the chosen rollouts of a group, best first."""
        scores = sorted(judgement.scores, key=lambda s: -s.value)
        top = 1 if self.top is None and self.min_score is None else self.top
        if top is not None:
            # With equal scores there is no best rollout: the order would be arbitrary.
            scores = scores[:top] if scores and scores[0].value > scores[-1].value else []
        return [s.rollout_id for s in scores if self.min_score is None or s.value >= self.min_score]


def run_settings(folder: Path) -> dict[str, Any]:
    """Return the settings a run was started with.

    Raises:
        ConfigError: the folder does not contain a run.
    """
    config = folder / "config.json"
    settings = json.loads(config.read_text()) if config.is_file() and (folder / "run.sqlite").is_file() else {}
    if "policy" not in settings or "scenarios" not in settings:
        raise ConfigError(
            f"{str(folder)!r} holds no run of `woodshed train`; expected its folder, with config.json and run.sqlite, "
            "or a file of conversations that ends in .jsonl"
        )
    return dict(settings)


def examples_of_run(folder: Path, choice: Choice) -> list[SftExample]:
    """Return the chosen rollouts of a run, without duplicates within a scenario.

    Raises:
        ConfigError: the run has no scores, or no rollout is chosen; the message shows the scores.
    """
    run_settings(folder)
    with ReadStore(folder) as store:
        judgements = [j for j in _judgements(store) if j.error is None and j.scores]
        if not judgements:
            raise ConfigError(
                f"the run in {str(folder)!r} has no scores: no group of its rollouts has been judged yet. Let it "
                "finish a step first, or pass a .jsonl file of conversations"
            )
        chosen = [rollout_id for judgement in judgements for rollout_id in choice.of(judgement)]
        examples = [example for t in _trajectories(store, chosen) if (example := _example(t)) is not None]
    if not examples:
        raise ConfigError(
            f"no rollout of the run in {str(folder)!r} is chosen by {choice}; its scores are {_spread(judgements)}. "
            "Lower min_score, or choose by top"
        )
    return list({(example.scenario_id, _tokens(example.calls)): example for example in examples}.values())


def _judgements(store: ReadStore) -> Iterator[Judgement]:
    # Groups that were set aside are not part of the run any more.
    rows = store.rows("SELECT body FROM judgements WHERE group_id NOT LIKE 'aside-%' ORDER BY group_id")
    return (Judgement.model_validate_json(body) for (body,) in rows)


def _trajectories(store: ReadStore, rollout_ids: Sequence[str]) -> Iterator[Trajectory]:
    for rollout_id in rollout_ids:
        for (body,) in store.rows("SELECT body FROM trajectories WHERE rollout_id = ?", rollout_id):
            yield Trajectory.model_validate_json(body)


def _example(trajectory: Trajectory) -> SftExample | None:
    """Return a rollout's usable calls as an example; None if it failed or has none."""
    calls = tuple(_for_sft(call) for call in trajectory.calls if _is_whole(call))
    if trajectory.status != "completed" or not calls:
        return None
    return SftExample(place=f"rollout {trajectory.rollout_id}", scenario_id=trajectory.scenario_id, calls=calls)


def _is_whole(call: ModelCall) -> bool:
    usable = call.tokens.error is None and bool(call.tokens.prompt_ids) and bool(_finished(call.tokens))
    return usable and not call.superseded


def _finished(tokens: TokenCall) -> list[Completion]:
    return [c for c in tokens.completions if c.token_ids and c.finish_reason != "length"]


def _for_sft(call: ModelCall) -> TokenCall:
    """Return a call as a training example at temperature 1, however it was sampled.

    If its log-probabilities are not the policy's at temperature 1, the weight versions are set to unknown.
    """
    tokens = call.tokens
    comparable = not tokens.constrained and tokens.sampling.get("temperature", 1.0) == 1.0
    finished = tuple(
        c if comparable else c.model_copy(update={"weight_versions": (UNKNOWN_VERSION,) * len(c.token_ids)})
        for c in _finished(tokens)
    )
    return tokens.model_copy(update={"completions": finished, "sampling": {"temperature": 1.0}, "constrained": False})


def _tokens(calls: Sequence[TokenCall]) -> tuple[tuple[int, ...], ...]:
    return tuple(ids for call in calls for ids in (call.prompt_ids, *(c.token_ids for c in call.completions)))


def _spread(judgements: Sequence[Judgement]) -> str:
    """Return the distribution of scores as text."""
    values = [s.value for j in judgements for s in j.scores]
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, max(0, int(value * _BINS)))] += 1
    bins = ", ".join(f"{n} in {k / _BINS:.1f}-{(k + 1) / _BINS:.1f}" for k, n in enumerate(counts) if n)
    flat = sum(len({s.value for s in j.scores}) == 1 for j in judgements)
    equal = f"; {flat} of {len(judgements)} groups have equal scores" if flat else ""
    return f"{len(values)} from {min(values):.2f} to {max(values):.2f} ({bins}{equal})"
