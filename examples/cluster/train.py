"""Train the music shop's clerk on a Ray cluster: vLLM on its nodes' GPUs, started from a node of it.

Run on a node that has joined: woodshed train examples/cluster/train.py
"""

from __future__ import annotations

import os

import woodshed
from woodshed_langgraph import wrap
from woodshed_tiny_world import Scenario, held_out_scenarios, train_scenarios, verify
from woodshed_tiny_world.agent import build_agent

agent = wrap(build_agent())


@woodshed.rollout
async def serve_customer(scenario: Scenario) -> None:
    await agent.ainvoke({"messages": [("user", scenario.question)]})


def success(trajectory: woodshed.Trajectory, scenario: Scenario) -> float:
    return verify(trajectory, scenario).success


training = woodshed.Training(
    rollout=serve_customer,
    scenarios=train_scenarios(),
    # A hub name: each node downloads the model for itself.
    policy=woodshed.Policy(
        os.environ.get("WOODSHED_POLICY", "Qwen/Qwen2.5-3B-Instruct"),
        replicas=int(os.environ.get("WOODSHED_REPLICAS", "2")),
        max_model_len=4096,
    ),
    reward=woodshed.FunctionReward(success),
    engine=woodshed.Engine.ray("auto"),
    evaluation=woodshed.Evaluation(scenarios=held_out_scenarios(), measure=success),
    config=woodshed.TrainConfig(steps=int(os.environ.get("WOODSHED_STEPS", "20")), scenarios_per_step=8),
)

if __name__ == "__main__":
    training.run()
