"""One policy with its checkpoints: resumes from the newest, takes each step once, and saves before it reports."""

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
    """One policy that a run trains."""

    def __init__(self, start: Start) -> None:
        """Load the model and the newest checkpoint, or make the first checkpoint where there is none.

        Raises:
            TrainError: The model, its LoRA or a checkpoint cannot be loaded.
        """
        self._home = Path(start.home)
        self.checkpoints = Checkpoints(self._home)
        self.checkpoints.clean()
        self.policy = LoraPolicy(start.model_path, start.policy)
        kept = self.checkpoints.kept()
        position = self.checkpoints.position(kept[-1]) if kept else None
        if position is None:
            if start.policy.adapter is not None:
                start_from(self.policy, Path(start.policy.adapter).expanduser())
            self.position = Position(version=int(start.policy.adapter is not None), policy=start.policy)
            self.checkpoints.save(self.position, self.policy.save)
        else:
            _check_same_lora(position.policy, start.policy, self.checkpoints.path(position.version))
            self.policy.load(self.checkpoints.path(position.version))
            self.position = position.model_copy(update={"policy": start.policy})
        self.runner = StepRunner(self.policy)

    @property
    def state(self) -> PolicyState:
        """The policy's version and the steps it has taken."""
        return PolicyState(
            name=self.position.policy.name,
            version=self.position.version,
            steps=tuple(report.step_id for report in self.position.reports),
            checkpoints=str(self.checkpoints.folder.absolute()),
            forward_mode=self.runner.mode,
            warnings=self.runner.slower.warnings,
        )

    def step(self, message: Step) -> StepReport:
        """Take a step and return its report; a repeated step id returns the report in the checkpoint.

        Raises:
            TrainError: The step could not be taken; the policy is as it was.
        """
        for report in self.position.reports:
            if report.step_id == message.request.step_id:
                return report
        batch = build_batch(message.request, message.sessions)
        version = self.position.version
        trained = bool(batch.learning) and message.request.objective != "evaluate"
        report = StepReport(
            step_id=message.request.step_id,
            version=version + trained,
            trained=trained,
            metrics=self._metrics(message, batch) if batch.learning else {"rollouts": float(len(batch.rollouts))},
            quarantined=batch.quarantined,
            warnings=self.runner.slower.new_warnings(),
        )
        if message.request.objective == "evaluate":
            return report  # nothing changed that belongs in a checkpoint
        position = self.position.model_copy(
            update={"version": report.version, "reports": (*self.position.reports, report)}
        )
        if trained:
            if self.runner.log_ratios is not None:
                self.runner.log_ratios.save(self._home, report.version)
            asked = message.request
            self.checkpoints.save(position, self.policy.save, newest=asked.keep_checkpoints, also=asked.keep_version)
        else:
            self.checkpoints.restate(position)
        self.position = position
        return report

    def _metrics(self, message: Step, batch: TrainingBatch) -> dict[str, float]:
        """Take the step that the objective names, and return its metrics."""
        match message.request.objective:
            case "policy_gradient":
                return self.runner.take(batch, self.position.version)
            case "supervised":
                return supervised_step(self.runner, batch, self.position.version)
            case "evaluate":
                return evaluation(self.runner, batch, self.position.version)


def _check_same_lora(kept: OpenPolicy, requested: OpenPolicy, folder: Path) -> None:
    if kept.lora != requested.lora:
        raise TrainError(
            f"policy {requested.name!r} was trained with {kept.lora!r} (checkpoint {str(folder)!r}), "
            f"and {requested.lora!r} is asked for; use the same settings or another policy name"
        )
