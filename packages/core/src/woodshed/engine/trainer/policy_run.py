"""One policy with its checkpoints: resumes from the newest, takes each step once, and saves before it reports."""

from __future__ import annotations

from pathlib import Path

from woodshed.engine.trainer.batch import TrainingBatch, build_batch
from woodshed.engine.trainer.checkpoint import Checkpoints, Position
from woodshed.engine.trainer.initial_adapter import start_from
from woodshed.engine.trainer.policy import LoraPolicy
from woodshed.engine.trainer.ranks import ALONE, Ranks
from woodshed.engine.trainer.step import StepRunner
from woodshed.engine.trainer.supervised import evaluation, supervised_step
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.types import OpenPolicy, PolicyState, StepReport, StepRequest


class PolicyRun:
    """One policy that a run trains."""

    def __init__(self, start: Start, ranks: Ranks = ALONE) -> None:
        """Load the model and the newest checkpoint, or make the first checkpoint where there is none.

        Of several ranks only the first reads and writes the folder; the others copy its policy.

        Raises:
            TrainError: The model, its LoRA or a checkpoint cannot be loaded.
        """
        self._home = Path(start.home)
        self._ranks = ranks
        self.checkpoints = Checkpoints(self._home)
        ranks.from_first(self.checkpoints.clean)
        self.policy = LoraPolicy(start.model_path, start.policy, ranks, shard_base=start.shard_base)
        self.position = ranks.from_first(lambda: self._opened(start.policy))
        self.policy.copy_first()
        self.runner = StepRunner(self.policy)

    def _opened(self, asked: OpenPolicy) -> Position:
        """Load the newest checkpoint into the policy, or make the first one, and return its position."""
        kept = self.checkpoints.kept()
        position = self.checkpoints.position(kept[-1]) if kept else None
        if position is not None:
            _check_same_lora(position.policy, asked, self.checkpoints.path(position.version))
            self.policy.load(self.checkpoints.path(position.version))
            return position.model_copy(update={"policy": asked})
        if asked.adapter is not None:
            start_from(self.policy, Path(asked.adapter).expanduser())
        position = Position(version=int(asked.adapter is not None), policy=asked)
        self.checkpoints.save(position, self.policy.save)
        return position

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
        if self._ranks.is_first:
            self._keep(position, message.request)
        self.position = position
        return report

    def _keep(self, position: Position, asked: StepRequest) -> None:
        """Write what a step changed."""
        if position.version != self.position.version:
            if self.runner.log_ratios is not None:
                self.runner.log_ratios.save(self._home, position.version)
            self.checkpoints.save(position, self.policy.save, newest=asked.keep_checkpoints, also=asked.keep_version)
        else:
            self.checkpoints.restate(position)

    def _metrics(self, message: Step, batch: TrainingBatch) -> dict[str, float]:
        """Take the step that the objective names, and return its metrics, whose times are the first rank's."""
        take = {"policy_gradient": StepRunner.take, "supervised": supervised_step, "evaluate": evaluation}
        metrics = take[message.request.objective](self.runner, batch, self.position.version)
        return self._ranks.from_first(lambda: metrics)


def _check_same_lora(kept: OpenPolicy, requested: OpenPolicy, folder: Path) -> None:
    if kept.lora != requested.lora:
        raise TrainError(
            f"policy {requested.name!r} was trained with {kept.lora!r} (checkpoint {str(folder)!r}), "
            f"and {requested.lora!r} is asked for; use the same settings or another policy name"
        )
