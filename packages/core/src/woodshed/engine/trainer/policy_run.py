"""One policy and its checkpoint folder: resumes, takes each step once, saves before it answers."""

from __future__ import annotations

from pathlib import Path

from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.checkpoint import Checkpoints, Position
from woodshed.engine.trainer.initial_adapter import start_from
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.step import StepRunner
from woodshed.engine.trainer.supervised import evaluation, supervised_step
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, PolicyState, StepReport


class PolicyRun:
    """One policy, from its newest checkpoint on."""

    def __init__(self, start: Start) -> None:
        """Load model and newest checkpoint; make checkpoint 0 where there is none."""
        self.checkpoints = Checkpoints(Path(start.home))
        self.checkpoints.clean()
        self.policy = LoraPolicy(start.model_path, start.policy)
        kept = self.checkpoints.kept()
        position = self.checkpoints.position(kept[-1]) if kept else None
        if position is None:
            if start.policy.adapter is not None:
                start_from(self.policy, Path(start.policy.adapter))
            self.position = Position(version=int(start.policy.adapter is not None), policy=start.policy)
            self.checkpoints.save(self.position, self.policy.save)
        else:
            _check_same(position.policy, start.policy, self.checkpoints.path(position.version))
            self.policy.load(self.checkpoints.path(position.version))
            self.position = position.model_copy(update={"policy": start.policy})
        self.runner = StepRunner(self.policy)

    @property
    def state(self) -> PolicyState:
        """Where the policy stands."""
        return PolicyState(
            name=self.position.policy.name,
            version=self.position.version,
            steps=tuple(report.step_id for report in self.position.reports),
        )

    def step(self, asked: Step) -> StepReport:
        """Take the step, once: its report is in the checkpoint, and a repeated step id is answered from there."""
        for report in self.position.reports:
            if report.step_id == asked.request.step_id:
                return report
        batch = build_batch(asked.request, asked.sessions)
        version = self.position.version
        trained = bool(batch.learning) and asked.request.objective != "evaluate"
        report = StepReport(
            step_id=asked.request.step_id,
            version=version + trained,
            trained=trained,
            metrics=self._metrics(asked, batch) if batch.learning else {"rollouts": float(len(batch.rollouts))},
            quarantined=batch.quarantined,
        )
        if asked.request.objective == "evaluate":
            return report  # nothing happened that a checkpoint would have to know
        position = self.position.model_copy(
            update={"version": report.version, "reports": (*self.position.reports, report)}
        )
        if trained:
            self.checkpoints.save(position, self.policy.save)
        else:
            self.checkpoints.restate(position)
        self.position = position
        return report

    def _metrics(self, asked: Step, batch: TrainingBatch) -> dict[str, float]:
        """Take the step that was asked for, and return its figures."""
        match asked.request.objective:
            case "policy_gradient":
                return self.runner.take(batch, self.position.version)
            case "supervised":
                return supervised_step(self.runner, batch, self.position.version)
            case "evaluate":
                return evaluation(self.runner, batch, self.position.version)


def _check_same(kept: OpenPolicy, asked: OpenPolicy, folder: Path) -> None:
    if kept.lora != asked.lora:
        raise TrainError(
            f"policy {asked.name!r} was trained with {kept.lora!r} (checkpoint {str(folder)!r}), "
            f"and {asked.lora!r} is asked for; use the same settings or another policy name"
        )
