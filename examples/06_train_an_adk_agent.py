"""Train a Google ADK agent that serves the tiny music shop for a few steps, on this machine's CPU.

Run: .venv/bin/woodshed train examples/06_train_an_adk_agent.py
"""

from __future__ import annotations

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.genai import types

import woodshed
import woodshed_tiny_world as shop
from woodshed_adk import instrument

clerk = LlmAgent(
    name="clerk",
    model="gemini-2.5-flash",
    instruction="You are the clerk of a music shop. Look it up, then answer.",
    tools=[shop.get_price, shop.get_stock, shop.get_delivery],
    generate_content_config=types.GenerateContentConfig(max_output_tokens=48),
)
runner = InMemoryRunner(agent=instrument(clerk), app_name="music_shop")


@woodshed.rollout
async def serve_customer(scenario: shop.Scenario) -> None:
    session = await runner.session_service.create_session(app_name="music_shop", user_id="customer")
    question = types.Content(role="user", parts=[types.Part(text=scenario.question)])
    async for _ in runner.run_async(user_id="customer", session_id=session.id, new_message=question):
        pass


training = woodshed.Training(
    rollout=serve_customer,
    scenarios=shop.train_scenarios(),
    policy=woodshed.Policy(str(shop.policy_path()), max_model_len=512),
    reward=woodshed.Ruler("engine/judge"),
    engine=woodshed.Engine.local(models={"judge": shop.judge_model()}),
    evaluation=woodshed.Evaluation(
        scenarios=shop.held_out_scenarios(),
        measure=lambda trajectory, scenario: shop.verify(trajectory, scenario).success,
    ),
    config=woodshed.TrainConfig(
        steps=5, scenarios_per_step=6, optimizer=woodshed.OptimizerSettings(learning_rate=2e-3, warmup_steps=2)
    ),
)

if __name__ == "__main__":
    training.run()
