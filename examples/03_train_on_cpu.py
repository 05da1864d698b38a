"""Train a LangGraph agent that serves the tiny music shop for a few steps, on this machine's CPU.

Run: .venv/bin/woodshed train examples/03_train_on_cpu.py
"""

from __future__ import annotations

import woodshed
from woodshed_langgraph import wrap
from woodshed_tiny_world import Scenario, held_out_scenarios, judge_model, policy_path, train_scenarios, verify
from woodshed_tiny_world.agent import build_agent

agent = wrap(build_agent())


@woodshed.rollout
async def serve_customer(scenario: Scenario) -> None:
    await agent.ainvoke({"messages": [("user", scenario.question)]})


training = woodshed.Training(
    rollout=serve_customer,
    scenarios=train_scenarios(),
    policy=woodshed.Policy(str(policy_path()), max_model_len=512),
    reward=woodshed.Ruler("engine/judge"),
    engine=woodshed.Engine.local(models={"judge": judge_model()}),
    evaluation=woodshed.Evaluation(
        scenarios=held_out_scenarios(), measure=lambda trajectory, scenario: verify(trajectory, scenario).success
    ),
    config=woodshed.TrainConfig(
        steps=5, scenarios_per_step=6, optimizer=woodshed.OptimizerSettings(learning_rate=2e-3, warmup_steps=2)
    ),
)

if __name__ == "__main__":
    training.run()
