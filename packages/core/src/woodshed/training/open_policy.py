"""Open the policy of a run on the engine, and check that the engine has every step the run has taken."""

from __future__ import annotations

from woodshed.capture import RolloutFunction
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError
from woodshed.training.config import Policy, TrainConfig
from woodshed.training.rollouts.groups import RunContext
from woodshed.training.rollouts.prefetch import PrioritySemaphore
from woodshed.training.run.store import RunStore
from woodshed.types import OpenPolicy


async def open_policy(
    client: EngineClient,
    policy: Policy,
    config: TrainConfig,
    *,
    adapter: str | None,
    function: RolloutFunction,
    store: RunStore,
) -> RunContext:
    """Open `policy` on the engine, starting from the LoRA in `adapter` or the base model, and return the run's context.

    Raises:
        EngineError: the policy could not be opened, or the engine does not have the run's checkpoints.
    """
    name = policy.served().name
    state = await client.open_policy(
        OpenPolicy(
            name=name,
            run_id=store.run_id(),
            lora=policy.lora,
            optimizer=config.optimizer,
            loss=config.loss,
            seed=config.seed,
            trainer=policy.trainer,
            load_in_4bit=policy.load_in_4bit,
            kernels=policy.kernels,
            adapter=adapter,
        )
    )
    store.save_fact("engine_version", state.version)
    store.save_fact("checkpoints", state.checkpoints)
    store.add_warnings(state.warnings)
    return RunContext(
        function=function,
        client=client,
        store=store,
        policy=policy,
        policy_name=name,
        config=config,
        start_version=_start_version(store, state.version),
        trainer_warnings=state.warnings,
        semaphore=PrioritySemaphore(config.max_concurrency),
    )


def _start_version(store: RunStore, version: int) -> int:
    """Return the weight version before the first step, after checking that the engine has all steps of the run.

    Raises:
        EngineError: the engine has lost the run's checkpoints, or is a different engine.
    """
    history = store.history()
    if history and version < history[-1]["version"]:
        raise EngineError(
            f"the run in {str(store.folder)!r} has trained its policy to version {history[-1]['version']}, but this "
            f"engine has only version {version}: its checkpoints are gone, or it is a different engine. Use the engine "
            "that trained it, or start a new run with fresh=True (`--fresh`)"
        )
    if (start := store.fact("start_version")) is None:
        store.save_fact("start_version", start := version)
    return int(start)
