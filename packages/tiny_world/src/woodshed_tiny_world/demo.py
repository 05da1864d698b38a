"""`woodshed demo`: the clerk of the music shop learns, on this machine, from nothing but a judge's ranking."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from scipy.stats import kendalltau

import woodshed
from woodshed.rewards.base import Reward, Scenarios
from woodshed.rewards.cache import VerdictCache
from woodshed.training.report.files import write_summary
from woodshed.training.run.store import RunStore
from woodshed_tiny_world import held_out_scenarios, judge_model, policy_path, train_scenarios, verify
from woodshed_tiny_world.agents import rollout_of
from woodshed_tiny_world.scenarios import Scenario
from woodshed_tiny_world.verifier import Level

CONFIG = woodshed.TrainConfig(
    steps=16,
    group_size=8,
    scenarios_per_step=12,
    max_concurrency=48,
    rollout_timeout_s=120,
    optimizer=woodshed.OptimizerSettings(learning_rate=4e-3, warmup_steps=3),
)
HELD_OUT_ROLLOUTS = 2


@dataclass(frozen=True)
class ShuffledReward:
    """The control: the judge's scores, dealt out at random within their group, so that they teach nothing."""

    inner: Reward
    seed: int = 0

    @property
    def name(self) -> str:
        """Name the control in reports."""
        return "shuffled scores"

    @property
    def asks_engine(self) -> bool:
        """Whether the judge is a model that the engine serves."""
        return self.inner.asks_engine

    def bound(
        self, *, base_url: str, api_key: str, cache: VerdictCache | None = None, scenarios: Scenarios | None = None
    ) -> Self:
        """Return a copy whose judge can reach the engine."""
        inner = self.inner.bound(base_url=base_url, api_key=api_key, cache=cache, scenarios=scenarios)
        return replace(self, inner=inner)

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        """Return the judge's verdict with its scores dealt out anew."""
        verdict = await self.inner.judge_group(trajectories)
        values = [s.value for s in verdict.scores]
        random.Random(f"{self.seed}/{','.join(s.rollout_id for s in verdict.scores)}").shuffle(values)
        dealt = tuple(s.model_copy(update={"value": v}) for s, v in zip(verdict.scores, values, strict=True))
        return verdict.model_copy(update={"scores": dealt})


def training(
    *,
    framework: str = "langgraph",
    seed: int = 0,
    steps: int | None = None,
    run_dir: Path,
    control: bool = False,
    fresh: bool = False,
    ray: str | None = None,
    replicas: int = 1,
    trainers: int = 1,
) -> woodshed.Training:
    """Return the demo's training; with `control`, the same on shuffled scores."""
    judge = woodshed.Ruler(judge="engine/judge")
    engine = woodshed.Engine.local if ray is None else partial(woodshed.Engine.ray, ray)
    return woodshed.Training(
        rollout=rollout_of(framework),
        scenarios=train_scenarios(),
        policy=woodshed.Policy(
            str(policy_path()),
            max_model_len=512,
            lora=woodshed.LoraSettings(rank=16, alpha=32),
            replicas=replicas,
        ),
        reward=ShuffledReward(judge, seed) if control else judge,
        engine=engine(models={"judge": judge_model()}, trainers=trainers),
        evaluation=woodshed.Evaluation(
            scenarios=held_out_scenarios(),
            measure=lambda trajectory, scenario: verify(trajectory, scenario).success,
            rollouts_per_scenario=HELD_OUT_ROLLOUTS,
        ),
        config=CONFIG.model_copy(update={"seed": seed, "steps": steps or CONFIG.steps}),
        run_dir=run_dir,
        fresh=fresh,
    )


def run(
    *,
    framework: str = "langgraph",
    seed: int = 0,
    control: bool = False,
    run_dir: Path | None = None,
    steps: int | None = None,
    fresh: bool = False,
    ray: str | None = None,
    replicas: int = 1,
    trainers: int = 1,
) -> None:
    """Train, measure on held-out questions, and write `summary.json` into the run's folder.

    Args:
        framework: what the clerk is written in: `langgraph`, `crewai` or `adk`.
        seed: the run's seed.
        control: whether to train a second time, on shuffled scores.
        run_dir: the run's folder; `runs/demo`, or `runs/demo-NAME` for another framework than LangGraph; with `-ray` at
            the end on a Ray cluster.
        steps: optimizer steps, in place of the demo's.
        fresh: whether to start anew; the run in the folder is renamed.
        ray: address of the Ray cluster that serves and trains, `local` for one that is started here; None for no Ray.
        replicas: vLLM servers of the policy.
        trainers: processes that share each step.
    """
    named = ("demo", *([] if framework == "langgraph" else [framework]), *([] if ray is None else ["ray"]))
    run_dir = run_dir or Path("runs") / "-".join(named)
    placed: dict[str, Any] = {"ray": ray, "replicas": replicas, "trainers": trainers}
    print(
        "The judge of this demo is a small model that was taught with labels of its own world; it stands in, offline,\n"
        "for the LLM judge you would name. Nothing but its ranking enters training.",
        flush=True,
    )
    finished = training(framework=framework, seed=seed, steps=steps, run_dir=run_dir, fresh=fresh, **placed).run()
    figures: dict[str, Any] = {
        **finished.summary.model_dump(mode="json"),
        "framework": framework,
        "seed": seed,
        "judge_kendall_tau": judge_agreement(finished.folder, finished.summary.steps),
    }
    write_summary(finished.folder, figures)
    if control:
        print("control: the same training on shuffled scores", flush=True)
        shuffled = training(
            framework=framework, seed=seed, steps=steps, run_dir=finished.folder / "control", control=True, **placed
        ).run()
        figures["control_shuffled_scores"] = shuffled.summary.success_after
        figures["control_shuffled_interval"] = shuffled.summary.interval_after
        write_summary(finished.folder, figures)
    print(json.dumps(figures, indent=2), flush=True)


def judge_agreement(folder: Path, steps: int) -> dict[str, float | None]:
    """Return Kendall's τ-b between the judge's scores and the truth on live rollouts, at the first and last step.

    Averaged over the step's groups whose attempts truly differ; a judge that calls all of them equal agrees 0. None
    where no group's attempts differ.
    """
    scenarios = {s.id: s for s in train_scenarios()}
    store = RunStore(folder)
    try:
        return {name: _step_agreement(store, scenarios, step) for name, step in (("first", 0), ("last", steps - 1))}
    finally:
        store.close()


def _step_agreement(store: RunStore, scenarios: dict[str, Scenario], step: int) -> float | None:
    order = list(Level)
    found = []
    for scenario_id, scenario in scenarios.items():
        judgement = store.judgement(f"{step}/{scenario_id}")
        if judgement is None or judgement.error is not None:
            continue
        scores = {s.rollout_id: s.value for s in judgement.scores}
        members = [store.trajectory(f"{step}/{scenario_id}/{k}") for k in range(CONFIG.group_size)]
        judged = [(scores[t.rollout_id], order.index(verify(t, scenario).level)) for t in members
                  if t is not None and t.rollout_id in scores]  # fmt: skip
        if len({truth for _, truth in judged}) < 2:
            continue
        tau = 0.0 if len({s for s, _ in judged}) < 2 else float(kendalltau(*zip(*judged, strict=True)).statistic)
        found.append(tau)
    return round(sum(found) / len(found), 3) if found else None
