"""Train a CrewAI crew that serves the tiny music shop for a few steps, on this machine's CPU.

Run: .venv/bin/woodshed train examples/05_train_a_crew.py
"""

from __future__ import annotations

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

import woodshed
import woodshed_tiny_world as shop
from woodshed_crewai import trainable


@trainable
def shop_crew() -> Crew:
    """Return the crew as its author wrote it, for a hosted model."""
    clerk = Agent(
        role="Clerk of a music shop",
        goal="Look it up, then answer.",
        backstory="You know every instrument.",
        tools=[tool(shop.get_price), tool(shop.get_stock), tool(shop.get_delivery)],
        llm=LLM(model="gpt-4o-mini", max_tokens=48),
        max_iter=4,
    )
    return Crew(
        agents=[clerk], tasks=[Task(description="{question}", expected_output="One short sentence.", agent=clerk)]
    )


@woodshed.rollout
def serve_customer(scenario: shop.Scenario) -> None:
    shop_crew().kickoff(inputs={"question": scenario.question})


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
