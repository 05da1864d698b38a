"""The training that is killed: the demo's clerk and tiny policy on a real vLLM, with a judge on loopback."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import woodshed
from woodshed.rewards.judge import Judge
from woodshed_tiny_world import held_out_scenarios, policy_path, train_scenarios, verify
from woodshed_tiny_world.agents import rollout_of

GROUPS = 2
MEMBERS = 4
HELD_OUT = 3
ENGINES = {"local": woodshed.Engine.local, "ray": partial(woodshed.Engine.ray, "local")}
"""Where vLLM and the trainers run: as processes of the engine, or in a Ray cluster that is this machine."""


def main() -> None:
    """Start the training or resume it: `child.py FOLDER STEPS JUDGE_URL ROLLOUT_TIMEOUT_S TRAINERS REPLICAS ENGINE`."""
    folder, steps, judge_url, timeout_s, trainers, replicas, engine = sys.argv[1:]
    training = woodshed.Training(
        rollout=rollout_of("langgraph"),
        scenarios=train_scenarios(),
        policy=woodshed.Policy(str(policy_path()), max_model_len=512, replicas=int(replicas)),
        reward=woodshed.Ruler(Judge("judge", base_url=judge_url, api_key="none", structured="none")),
        evaluation=woodshed.Evaluation(
            scenarios=held_out_scenarios()[:HELD_OUT],
            measure=lambda trajectory, scenario: verify(trajectory, scenario).success,
            rollouts_per_scenario=MEMBERS,
        ),
        config=woodshed.TrainConfig(
            steps=int(steps),
            group_size=MEMBERS,
            scenarios_per_step=GROUPS,
            max_staleness=0,
            max_concurrency=2,
            rollout_timeout_s=float(timeout_s),
            optimizer=woodshed.OptimizerSettings(learning_rate=1e-4),
        ),
        run_dir=Path(folder),
        engine=ENGINES[engine](trainers=int(trainers)),
        checks=False,
    )
    training.run()


if __name__ == "__main__":
    main()
