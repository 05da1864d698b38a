"""The policies that this engine trains: opened for a run, stepped, and handed over from one run to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from woodshed.engine.client.config import Trainers
from woodshed.engine.control.responses import NotFound
from woodshed.engine.gateway.counters import Counters
from woodshed.engine.gateway.sessions import ABANDONED_AFTER_S, Sessions
from woodshed.engine.gateway.upstream import Upstream
from woodshed.engine.trainer import Trainer
from woodshed.engine.vllm.gpu_turns import GpuTurns
from woodshed.engine.vllm.lora_slots import LoraSlots
from woodshed.errors import EngineError, PolicyLost
from woodshed.types import OpenPolicy, PolicyState, StepReport, StepRequest

_MAY_CHANGE = {"drift_warn", "drift_stop"}
"""Loss settings that only stop a run. They do not change what it learns, so a run may continue with other values."""


class ServedPolicy:
    """A policy that is being trained and served: its trainer, its LoRA in vLLM, and its state."""

    def __init__(self, trainer: Trainer, slots: LoraSlots, opened: OpenPolicy, state: PolicyState) -> None:
        """Hold a policy whose trainer has started.

        Args:
            trainer: The process that trains it.
            slots: Its LoRA versions in vLLM.
            opened: The request that opened it.
            state: Its version and the steps it has taken.
        """
        self.trainer = trainer
        self.slots = slots
        self.opened = opened
        self.state = state

    def add_step(self, report: StepReport) -> None:
        """Add a step that was taken to the state; a repeated one changes nothing."""
        if report.step_id not in self.state.steps:
            steps = (*self.state.steps, report.step_id)
            self.state = self.state.model_copy(update={"steps": steps, "version": report.version})


class Policies:
    """All policies that are open for training; each belongs to one run at a time."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        sessions: Sessions,
        counters: Counters,
        home: Path,
        trainers: Trainers,
    ) -> None:
        """Train models of `upstreams` on calls of `sessions`, with checkpoints under `home/policies`."""
        self._trainers = trainers
        self._counters = counters
        self._upstreams = upstreams
        self._sessions = sessions
        self._home = home
        self._by_name: dict[str, ServedPolicy] = {}
        self._locks = {name: asyncio.Lock() for name in upstreams}
        everyone = list(upstreams.values())
        servers = [replica.server for upstream in everyone for replica in upstream.replicas]
        self._turns = GpuTurns(servers, everyone[0].http)

    def all(self) -> tuple[ServedPolicy, ...]:
        """Return every open policy."""
        return tuple(self._by_name.values())

    def get(self, name: str, run_id: str | None) -> ServedPolicy:
        """Return an open policy.

        Raises:
            PolicyLost: `run_id` is given and the policy is not open for that run.
            NotFound: The policy is not open at all.
        """
        policy = self._by_name.get(name)
        if run_id is not None and (policy is None or policy.opened.run_id != run_id):
            raise PolicyLost(_lost_message(name, run_id, policy.opened.run_id if policy else None))
        if policy is None:
            raise NotFound(f"policy {name!r} is not open; open are {sorted(self._by_name) or 'none'}")
        return policy

    async def open(self, request: OpenPolicy) -> PolicyState:
        """Open a policy for a run, from the run's newest checkpoint; a policy that is open already stays as it is.

        Raises:
            NotFound: The engine serves no such model.
            EngineError: The model is not trainable, another run is using the policy, or its settings differ.
            TrainError: The trainer could not start.
        """
        slots = self._trainable_slots(request)
        async with self._locks[request.name]:
            policy = self._by_name.get(request.name)
            if policy is not None and policy.opened.run_id != request.run_id:
                await self._take_over(policy, request)
                policy = None
            if policy is None:
                policy = await self._launch(request, slots)
                # Also of a run that held it in an earlier life of this engine.
                self._sessions.lose(
                    request.name, request.run_id, lambda run: _lost_message(request.name, run, request.run_id)
                )
            elif policy.opened != request:
                _check_same_settings(policy.opened, request)
                # The checkpoint holds everything, so other limits cost no more than the trainer's restart.
                await policy.trainer.close()
                policy = await self._launch(request, slots)
            self._sessions.abandon(request.name, request.run_id)
            self._by_name[request.name] = policy
            self._counters.hold(request.name, request.run_id)
            self._counters.serve(request.run_id, policy.state.version, is_trained=bool(policy.state.steps))
        return policy.state

    async def step(self, name: str, request: StepRequest) -> StepReport:
        """Take one optimizer step and serve its weights.

        Raises:
            PolicyLost: Another run holds the policy.
            TrainError: The step could not be taken; the policy is as it was.
        """
        async with self._locks[name]:
            # While this step waited for the lock, another run may have taken the policy over.
            policy = self.get(name, request.run_id)
            is_repeated = request.step_id in policy.state.steps
            rollouts = () if is_repeated else request.rollouts
            sessions = {r.rollout_id: self._sessions.sealed(r.rollout_id) for r in rollouts}
            async with self._turns.trainers():
                report = await policy.trainer.step(request, sessions)
            if request.objective != "evaluate":
                policy.add_step(report)
            version = policy.state.version
            if version != policy.slots.version:
                async with self._turns.vllm():
                    await policy.slots.swap(version, policy.trainer.adapter_path(version))
                self._counters.serve(policy.opened.run_id, version)
                if self._upstreams[name].model.replicas > 1:
                    report = report.model_copy(update={"metrics": report.metrics | policy.slots.swap_metrics()})
            return report

    async def close(self) -> None:
        """End the trainers."""
        await asyncio.gather(*(policy.trainer.close() for policy in self._by_name.values()))

    async def _launch(self, request: OpenPolicy, slots: LoraSlots) -> ServedPolicy:
        """Start a trainer at the run's newest checkpoint and serve that checkpoint's adapter."""
        home = self._home / "policies" / request.name / request.run_id
        model = self._upstreams[request.name].model
        leaves_gpu = model.gpu_sharing == "sleep"
        trainer = Trainer(model.path, home, request, trainers=self._trainers, leaves_gpu=leaves_gpu)
        try:
            async with self._turns.trainers():
                state = await trainer.start()
            if state.version:
                async with self._turns.vllm():
                    await slots.swap(state.version, trainer.adapter_path(state.version))
        except BaseException:
            await trainer.close()
            raise
        return ServedPolicy(trainer, slots, request, state)

    async def _take_over(self, policy: ServedPolicy, request: OpenPolicy) -> None:
        """Close a policy whose run has ended, for another run; its checkpoints stay, and the base model is served.

        Raises:
            EngineError: The run still has open rollouts.
        """
        former_run = policy.opened.run_id
        if open_rollouts := self._sessions.unsealed(request.name):
            raise EngineError(
                f"policy {request.name!r} is being trained by run {former_run!r}, which has {open_rollouts} rollouts "
                f"open here; wait until it ends (one that was killed: {ABANDONED_AFTER_S:.0f} s after its last call), "
                f"or start another engine for run {request.run_id!r}"
            )
        self._sessions.lose(request.name, request.run_id, lambda run: _lost_message(request.name, run, request.run_id))
        del self._by_name[request.name]
        await policy.trainer.close()
        await policy.slots.reset_to_base()

    def _trainable_slots(self, request: OpenPolicy) -> LoraSlots:
        """Return the LoRA slots of the model that a request wants to train, if it can be trained as requested."""
        upstream = self._upstreams.get(request.name)
        if upstream is None:
            raise NotFound(f"there is no model {request.name!r} to train; this engine serves {sorted(self._upstreams)}")
        if upstream.slots is None:
            raise EngineError(
                f"model {request.name!r} is served with trainable=False; start the engine with trainable=True"
            )
        max_rank = upstream.model.max_lora_rank
        if request.lora.rank > max_rank:
            raise EngineError(
                f"policy {request.name!r} asks for LoRA rank {request.lora.rank}, vLLM was started for at most "
                f"{max_rank}; raise the served model's max_lora_rank"
            )
        return upstream.slots


def _check_same_settings(opened: OpenPolicy, request: OpenPolicy) -> None:
    """Raise EngineError where a run asks for its open policy with settings that it may not change on the way."""
    first, second = (policy.model_dump(exclude={"loss": _MAY_CHANGE, "kernels": True}) for policy in (opened, request))
    if differ := sorted(name for name in first if first[name] != second[name]):
        raise EngineError(
            f"policy {request.name!r} is open with other settings ({', '.join(differ)} differ); restart the engine to "
            "change them"
        )


def _lost_message(name: str, run_id: str, holder: str | None) -> str:
    """Return why a run does not have a policy any more, and what to do."""
    state = f"held by run {holder!r} now, not by run {run_id!r}" if holder else f"not open for run {run_id!r}"
    wait = f"once run {holder!r} has ended" if holder else "once the engine is free"
    return (
        f"policy {name!r} is {state}; an engine trains a policy for one run at a time. What run {run_id!r} has "
        f"finished is kept: run the same command again {wait}, or give each run an engine of its own"
    )
