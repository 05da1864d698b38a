"""The short way to the sampled token's log-probability gives what vLLM's own, long way gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shop import RunningEngine

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

# The policy has no token for most of these: their bytes come one by one, and a text only with the last.
PATTERN = {"structured_outputs": {"regex": "é (price|stock) 琴"}}


async def test_numbers_and_texts_are_the_same(engine: RunningEngine) -> None:
    how: dict[str, Any] = {"temperature": 0.7, "seed": 5, "max_tokens": 16, "extra_body": PATTERN}
    async with engine.session() as session:
        # Asked for other tokens too, vLLM takes its long way; all ways share batches.
        long, short, plain = await asyncio.gather(
            session.ask(logprobs=True, top_logprobs=2, **how), session.ask(logprobs=True, **how), session.ask(**how)
        )
        calls = (await session.seal()).calls

    truth, found = (answer.choices[0].logprobs.content for answer in (long, short))
    said = short.choices[0].message.content
    assert "".join(token.token for token in found).removesuffix("<|im_end|>") == said
    assert [(token.token, token.bytes) for token in found] == [(token.token, token.bytes) for token in truth]
    assert [token.top_logprobs for token in found] == [[] for _ in truth]
    logprobs = [token.logprob for token in truth]
    assert [token.logprob for token in found] == pytest.approx(logprobs, abs=1e-4)
    assert plain.choices[0].logprobs is None
    assert len(calls) == 3
    for call in calls:
        assert list(call.completions[0].logprobs) == pytest.approx(logprobs, abs=1e-4)
