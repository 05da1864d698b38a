"""MLflow: a run on the tracking server, or in the database, that MLflow's own settings name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from woodshed.training.track.tracker import PROJECT, Opened, TrackedRun
from woodshed.training.track.values import texts as as_texts

# A server that is gone is asked again later; MLflow's own defaults would wait for many minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

_PARAM_CHARS = 500
"""Longest value of a parameter that every store of MLflow takes; longer ones are whole in the run's `config.json`."""
_TAG_CHARS = 5000
_BATCH = 100
"""Most parameters that one request may have."""
_RUN_TAG = "woodshed.run_id"


class Mlflow:
    """An MLflow run; `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` are in effect."""

    def open(self, run: TrackedRun) -> Opened:
        """Begin the MLflow run or go on with it; one that was deleted is begun anew."""
        self._client = mlflow.MlflowClient()
        uri = mlflow.get_tracking_uri()
        found = self._found(run)
        if found is not None:
            self._run_id = found
            self._client.update_run(found, status="RUNNING")
        else:
            self._run_id = self._client.create_run(
                self._experiment(), run_name=run.name, tags={_RUN_TAG: run.run_id}
            ).info.run_id
            params = [Param(name, text[:_PARAM_CHARS]) for name, text in as_texts(run.config).items()]
            for start in range(0, len(params), _BATCH):
                self._client.log_batch(self._run_id, params=params[start : start + _BATCH])
        return Opened(tracked_id=self._run_id, where=_where(uri, self._run_id))

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment is not None else self._client.create_experiment(name))

    def _found(self, run: TrackedRun) -> str | None:
        """Return the id of the MLflow run that was begun before, if it is still there."""
        if run.kept_id is None:
            return self._begun(run)
        try:
            info = self._client.get_run(run.kept_id).info
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return None if info.lifecycle_stage == "deleted" else run.kept_id

    def _begun(self, run: TrackedRun) -> str | None:
        """Return the id of an MLflow run that was begun, and whose id could not be kept any more."""
        of_run = f"tags.`{_RUN_TAG}` = '{run.run_id}'"
        found = self._client.search_runs([self._experiment()], of_run, run_view_type=ViewType.ACTIVE_ONLY)
        return str(found[0].info.run_id) if found else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send a row in one request."""
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(k, v, now_ms, step) for k, v in values.items()])

    def warn(self, texts: Sequence[str], new: int) -> None:
        """Show the warnings as the run's description."""
        text = "\n".join(f"- {w}" for w in texts)
        self._client.log_batch(self._run_id, tags=[RunTag("mlflow.note.content", text[:_TAG_CHARS])])

    def close(self, summary: Mapping[str, Any] | None) -> None:
        """End the MLflow run; one that stopped is shown as killed, and runs again when it is resumed."""
        if summary is not None:
            tags = [RunTag(f"summary.{name}", text[:_TAG_CHARS]) for name, text in as_texts(summary).items()]
            for start in range(0, len(tags), _BATCH):
                self._client.log_batch(self._run_id, tags=tags[start : start + _BATCH])
        self._client.set_terminated(self._run_id, "FINISHED" if summary is not None else "KILLED")


def _where(uri: str, run_id: str) -> str:
    if uri.startswith(("http://", "https://")):
        return f"{uri}, run {run_id}"
    return f"run {run_id} of `mlflow ui --backend-store-uri {uri}`"
