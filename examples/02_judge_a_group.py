"""Rank three recorded attempts with RULER. The judge is a function here, so you need no key.

Run: .venv/bin/python examples/02_judge_a_group.py
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai

import woodshed
from woodshed.testing import ScriptedEngine, say, scripted_rollout


def attempt(answer: str) -> woodshed.Trajectory:
    """Record one attempt of a plain OpenAI client, which gets `answer` as its reply."""
    with ScriptedEngine(lambda request: say(answer)) as engine:
        with scripted_rollout(engine) as rollout:
            client = openai.OpenAI(base_url=rollout.base_url, api_key=rollout.secret)
            client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "What is 6 × 7?"}])
        return engine.trajectory(rollout)


async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
    """Answer as an LLM judge would: an explanation and a score for each attempt, by id."""
    found = re.findall(r"<attempt (\w+) \w+>\n(.*?)\n</attempt", user, re.DOTALL)
    scores = [{"id": i, "explanation": "says 42" if "42" in text else "wrong", "score": float("42" in text)}
              for i, text in found]  # fmt: skip
    return json.dumps({"scores": scores})


async def main() -> None:
    attempts = [attempt(answer) for answer in ("It is 42.", "It is 48.", "No idea.")]
    judgement = await woodshed.Ruler(judge).judge_group(attempts)
    for score in judgement.scores:
        print(f"{score.value:.1f}  {score.explanation}")


if __name__ == "__main__":
    asyncio.run(main())
