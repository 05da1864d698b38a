"""Train a CrewAI crew that serves the tiny music shop for a few steps, on this machine's CPU.

Run: .venv/bin/etude train examples/05_train_a_crew.py
"""

from __future__ import annotations

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

import etude
from etude_crewai import trainable
from etude_tiny_world import (
    Scenario,
    get_delivery,
    get_price,
    get_stock,
    held_out_scenarios,
    judge_path,
    policy_path,
    train_scenarios,
    verify,
)  # fmt: skip


@trainable
def shop_crew() -> Crew:
    """Return the crew as its author wrote it, for a hosted model."""
    clerk = Agent(
        role="Clerk of a music shop",
        goal="Look it up, then answer.",
        backstory="You know every instrument.",
        tools=[tool(get_price), tool(get_stock), tool(get_delivery)],
        llm=LLM(model="gpt-4o-mini", max_tokens=48),
        max_iter=4,
    )
    return Crew(
        agents=[clerk], tasks=[Task(description="{question}", expected_output="One short sentence.", agent=clerk)]
    )


@etude.rollout
def serve_customer(scenario: Scenario) -> None:
    shop_crew().kickoff(inputs={"question": scenario.question})


training = etude.Training(
    rollout=serve_customer,
    scenarios=train_scenarios(),
    policy=etude.Policy(str(policy_path()), max_model_len=512),
    reward=etude.Ruler("engine/judge"),
    engine=etude.Engine.local(models={"judge": str(judge_path())}),
    evaluation=etude.Evaluation(
        scenarios=held_out_scenarios(), measure=lambda trajectory, scenario: verify(trajectory, scenario).success
    ),
    config=etude.TrainConfig(
        steps=5, scenarios_per_step=6, optimizer=etude.OptimizerSettings(learning_rate=2e-3, warmup_steps=2)
    ),
)

if __name__ == "__main__":
    training.run()
