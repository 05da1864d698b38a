"""Train an agent that uses no framework: give any OpenAI client the base URL and the key of its rollout.

The reward is a function here. Use one where you can compute how good an answer is.

Run: .venv/bin/woodshed train examples/04_plain_openai_client.py
"""

from __future__ import annotations

import openai

import woodshed
from woodshed_tiny_world import policy_path

GREETINGS = ["Tell me the price of the Cello in EUR.", "Is the Horn still in stock?"]


@woodshed.rollout
async def answer(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": question}], max_completion_tokens=16
        )


def shortness(trajectory: woodshed.Trajectory) -> float:
    """Reward short answers."""
    return 1.0 - min(1.0, sum(len(c.token_ids) for m in trajectory.calls for c in m.tokens.completions) / 16)


training = woodshed.Training(
    rollout=answer,
    scenarios=GREETINGS,
    policy=woodshed.Policy(str(policy_path()), max_model_len=256),
    reward=woodshed.FunctionReward(shortness),
    config=woodshed.TrainConfig(steps=2, group_size=4, scenarios_per_step=2),
)

if __name__ == "__main__":
    training.run()
