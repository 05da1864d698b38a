"""The promise of token trees: over random conversations, what was sampled is trained once, as the engine saw it.

Each conversation is played against a little engine: agents go on with their own history, fork it, compact it, ask with
n > 1, fail, or start sub-agents with prompts of their own, and every prompt the engine saw is remembered.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from woodshed.tokens import build_rows, pack_rows
from woodshed.types import Completion, Failure, Message, TokenCall

Ids = tuple[int, ...]


@dataclass
class Engine:
    """Answers prompts with tokens no other call uses, and remembers the context of each of them."""

    draw: random.Random
    calls: list[TokenCall] = field(default_factory=list)
    context: dict[int, Ids] = field(default_factory=dict)
    """Sampled token → everything before it, as the engine saw it."""
    fresh: int = 1000

    def answer(self, prompt: Ids) -> Ids:
        """Record one call, and return one of its completions."""
        failed = self.draw.random() < 0.1
        sampled = [self._sample(prompt, failed) for _ in range(self.draw.choice((1, 1, 1, 2)))]
        self.calls.append(
            TokenCall(
                call_id=f"c{len(self.calls)}", started_s=float(len(self.calls)), latency_s=0.1, messages=(),
                prompt_ids=prompt, completions=tuple(_completion(k, ids) for k, ids in enumerate(sampled)),
                error=Failure(kind="TimeoutError", message="") if failed else None,
            )
        )  # fmt: skip
        return self.draw.choice(sampled)

    def _sample(self, prompt: Ids, failed: bool) -> Ids:
        ids = tuple(range(self.fresh, self.fresh + self.draw.randint(1, 5)))
        self.fresh += len(ids)
        if not failed:
            self.context |= {token: prompt + ids[:k] for k, token in enumerate(ids)}
        return ids


def _completion(index: int, ids: Ids) -> Completion:
    return Completion(
        index=index, message=Message(role="assistant"), token_ids=ids, logprobs=tuple(-0.001 * i for i in ids),
        weight_versions=(3,) * len(ids),
    )  # fmt: skip


def converse(engine: Engine, system: Ids) -> None:
    """Let up to four agents take turns in random order."""
    draw = engine.draw
    histories: list[Ids] = [system + _words(draw, 3)]
    for _ in range(draw.randint(1, 9)):
        place = draw.randrange(len(histories))
        prompt = histories[place]
        histories[place] = prompt + engine.answer(prompt) + _words(draw, draw.randint(0, 4))
        what = draw.random()
        if what < 0.15 and len(histories) < 4:
            histories.append(_words(draw, 4) + _words(draw, draw.randint(0, 2)))
        elif what < 0.25:
            histories.append(histories[place][: draw.randint(1, len(histories[place]))] + _words(draw, 2))
        elif what < 0.35:
            histories[place] = system + _words(draw, 2) + histories[place][-2:]


def _words(draw: random.Random, count: int) -> Ids:
    return tuple(draw.randrange(50) for _ in range(count))


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**40), budget=st.sampled_from([30, 120, 100_000]), rollouts=st.integers(1, 4))
def test_every_sampled_token_is_trained_once_in_the_context_the_engine_saw(
    seed: int, budget: int, rollouts: int
) -> None:
    draw = random.Random(seed)
    system, engines = _words(draw, 6), []
    for k in range(rollouts):
        engines.append(Engine(draw, fresh=1000 + 10_000 * k))
        converse(engines[-1], system)
    rows = [row for engine in engines for row in build_rows(engine.calls)]
    packs = pack_rows([row.token_ids for row in rows], token_budget=budget)
    trained: list[tuple[int, Ids]] = []
    for pack in packs:
        below = {at: s.below for s in pack.segments() for at in range(s.start, s.stop)}
        for index, path in zip(pack.rows, pack.paths, strict=True):
            for k, is_trained in enumerate(rows[index].trained):
                if not is_trained:
                    continue
                predictor = path[k - 1]
                seen = tuple(pack.token_ids[at] for at in range(predictor + 1) if predictor < below[at])
                assert pack.depths[predictor] == k - 1
                assert rows[index].logprobs[k] == -0.001 * rows[index].token_ids[k]
                trained.append((rows[index].token_ids[k], seen))
    expected = {token: context for engine in engines for token, context in engine.context.items()}

    # Tokens below 1000 are prompts and tool results; those of failed calls are in no context of `expected`.
    assert Counter(token for token, _ in trained) == Counter(list(expected))
    assert dict(trained) == expected
