"""`woodshed.train(...)` and `woodshed.train_async(...)`: a training in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ParamSpec

from woodshed.capture import RolloutFunction
from woodshed.engine.client.local import ConnectedEngine, LocalEngine
from woodshed.errors import ConfigError
from woodshed.rewards.base import Reward
from woodshed.training.config import Evaluation, Policy, TrainConfig
from woodshed.training.finished import Run
from woodshed.training.loop import Training
from woodshed.training.on_step import OnStep
from woodshed.training.rollouts.ray_workers import RayWorkers

_Parameters = ParamSpec("_Parameters")


def train(
    rollout: RolloutFunction | Any,
    scenarios: Sequence[Any],
    *,
    policy: Policy,
    reward: Reward,
    engine: LocalEngine | ConnectedEngine | None = None,
    evaluation: Evaluation | None = None,
    run_dir: Path | str | None = None,
    fresh: bool = False,
    checks: bool = True,
    track: str | Sequence[str] = (),
    on_step: OnStep | None = None,
    quiet: bool = False,
    workers: RayWorkers | None = None,
    config: TrainConfig | None = None,
    **settings: Any,
) -> Run:
    """Train a policy with an agent on `scenarios` and return the finished run.

    Called again with the same arguments after a crash or Ctrl-C, it resumes the run; every finished rollout is trained
    exactly once. Only the settings in `TrainConfig.limits` may differ then. A finished run is returned as it is, or
    goes on from its last checkpoint if `steps` is greater than before.

    In a notebook it works as in a script; `await train_async(...)` is for code that is async itself.

    Args:
        rollout: function of one scenario that runs the agent (see `woodshed.rollout`).
        scenarios: training tasks; each has a unique `id`, or gets its index in the list as id.
        policy: the model to train.
        reward: `Ruler(judge=…)`, or `FunctionReward(f)`.
        engine: where the policy is served and trained; `Engine.local()` by default.
        evaluation: held-out scenarios, measured before and after training and every so many steps; never trained on.
        run_dir: folder of the run.
        fresh: start a new run; the one in that folder is renamed.
        checks: run the doctor's quick checks before the first step.
        track: trackers that get every row: any of `wandb`, `mlflow`, `tensorboard`, `trackio`.
        on_step: called with the row of each step, once it is stored; see `Training.on_step`.
        quiet: print nothing; warnings go to the log `woodshed.training`.
        workers: run the agent in Ray actors; None runs it in this process.
        config: all settings at once, instead of `settings`.
        **settings: fields of `TrainConfig`.

    Raises:
        ConfigError: the settings cannot work, or are not those of the run in the folder; raised before any work starts.
        StorageError: a file of the run cannot be written; the run can be resumed.
        EngineError: the engine could not be started or reached, or a step failed. A `DriftError` if the engine's and
            the trainer's log-probabilities differ too much.
        RolloutError: every rollout of a step failed.
        WorkerError: rollout workers could not be started, or none is left; after the latter the same command resumes
            the run.
        CheckError: a check before the first step failed.
        NothingToLearn: too many steps in a row trained nothing.
        JudgeRefused: the judge will refuse every request.
        CostCeilingError: judging would cost more than `Ruler.max_cost_usd`. After this and the two errors above, the
            same command resumes the run.
    """
    return _training(
        rollout, scenarios, policy=policy, reward=reward, engine=engine, evaluation=evaluation, run_dir=run_dir,
        fresh=fresh, checks=checks, track=track, on_step=on_step, quiet=quiet, workers=workers, config=config,
        **settings,
    ).run()  # fmt: skip


def _with_parameters_of(
    _: Callable[_Parameters, Run],
) -> Callable[[Callable[..., Coroutine[Any, Any, Run]]], Callable[_Parameters, Coroutine[Any, Any, Run]]]:
    """Give a function the parameters of another one, for editors and type checkers."""
    return lambda function: function


@_with_parameters_of(train)
async def train_async(rollout: RolloutFunction | Training | Any, *scenarios: Any, **arguments: Any) -> Run:
    """Train inside the running event loop, with the arguments of `train`, or a `Training`, and return the finished run.

    The agent runs in this loop, and may use what was opened in it. Cancelling the task stops the run, which can be
    resumed.
    """
    if not isinstance(rollout, Training):
        return await _training(rollout, *scenarios, **arguments).run_async()
    if scenarios or arguments:
        raise ConfigError(
            "train_async was given a Training and other arguments as well, which belong into the Training; pass "
            "either the Training alone or the arguments of woodshed.train"
        )
    return await rollout.run_async()


train_async.__signature__ = inspect.signature(train)  # type: ignore[attr-defined]
_PARTS = frozenset(part.name for part in fields(Training))


def _training(rollout: RolloutFunction | Any, scenarios: Sequence[Any], **arguments: Any) -> Training:
    """Return the training that the arguments of `train` describe: what is no part of one is a setting."""
    parts = {name: value for name, value in arguments.items() if name in _PARTS and value is not None}
    settings = {name: value for name, value in arguments.items() if name not in _PARTS}
    if "config" in parts and settings:
        raise ConfigError(f"pass either config= or single settings, not both; found config and {sorted(settings)}")
    return Training(rollout=rollout, scenarios=scenarios, **{"config": TrainConfig(**settings), **parts})
