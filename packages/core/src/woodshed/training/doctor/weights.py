"""Check the weights: does vLLM load a LoRA, and do trainer and engine then compute the same policy?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from woodshed.capture import new_id
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.training.rollouts.rollout import opened, seal_stopped
from woodshed.types import (
    LossSettings,
    OpenSession,
    PolicyState,
    SessionGrant,
    StepReport,
    StepRequest,
    WeightedRollout,
)

_PROBE = "Tell me something that you know about the sea."
_TOKENS, _PROBES = 24, 2
_SLOWER = "training is right, only slower; `woodshed engine install` brings the torch that every mode was tested with"
_ADVICE = (
    "trainer and vLLM do not hold the same policy: look for another base model or adapter, a quantised model, or a "
    "temperature that is not Policy.temperature"
)


def check_trainer(state: PolicyState) -> Finding:
    """Check that the trainer takes its fastest forward mode for an open policy."""
    mode = f"forward mode {state.forward_mode or 'unknown'!r}"
    if state.warnings:
        return warned("trainer", "; ".join(state.warnings), _SLOWER)
    return passed("trainer", mode)


async def check_swap(client: EngineClient, policy: str) -> Finding:
    """Check that vLLM loads the policy's adapter, answers with it and unloads it."""
    rehearsal = await client.test_adapter_load(policy)
    return passed("LoRA swap", f"loaded, used and unloaded; loading took {1000 * rehearsal.seconds:.0f} ms")


async def check_drift(client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings) -> Finding:
    """Check that the trainer computes the same log-probabilities for a sampled answer as the engine."""
    report = await probe(client, policy, sampling)
    if (drift := report.metrics.get("logprob_drift_fresh")) is None:
        reason = "; ".join(report.quarantined.values()) or "nothing was sampled"
        return warned("logprob drift", f"not measured: {reason}", "look at the first step's logprob_drift_fresh")
    return judge_drift(drift, report.metrics["trained_tokens"], limits)


def judge_drift(drift: float, tokens: float, limits: LossSettings) -> Finding:
    """Compare a drift, in nats per token, with a run's limits."""
    summary = f"{drift:.2g} nats per token over {tokens:.0f} sampled tokens"
    if not drift <= limits.drift_stop:
        return failed("logprob drift", f"{summary}, above drift_stop={limits.drift_stop}", _ADVICE)
    if drift > limits.drift_warn:
        return warned("logprob drift", f"{summary}, above drift_warn={limits.drift_warn}", _ADVICE)
    return passed("logprob drift", summary)


async def check_learning(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> Finding:
    """Take one real step, and check that new calls are answered with the new weights.

    This changes the policy: use it only on the doctor's own.
    """
    rollouts = [await sample(client, policy, sampling) for _ in range(_PROBES)]
    before = await _evaluate(client, policy, rollouts[0])
    weighted = tuple(WeightedRollout(rollout_id=r, advantage=1.0) for r in rollouts)
    step = await client.step(policy, StepRequest(step_id=new_id(), rollouts=weighted, objective="supervised"))
    after = await _evaluate(client, policy, rollouts[0])
    fresh = await _evaluate(client, policy, await sample(client, policy, sampling))
    moved = abs(after.metrics["nll"] - before.metrics["nll"])
    drift = fresh.metrics.get("logprob_drift_fresh")
    if drift is None or drift > max(0.1 * moved, 0.02):
        problem = f"a step moved the policy by {moved:.2g} nats per token, and vLLM is {drift} away from the result"
        return failed("LoRA step", problem, "new calls are not answered by the new weights: see the engine's vLLM log")
    return passed("LoRA step", f"a step to version {step.version} is served; it moved the policy by {moved:.2g} nats")


async def sample(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> str:
    """Return the id of a sealed rollout of one short answer.

    Raises:
        EngineError: the call was not answered.
    """
    rollout_id = f"doctor-{new_id()}"
    asked = OpenSession(rollout_id=rollout_id, policy=policy, sampling={**sampling, "max_tokens": _TOKENS})
    try:
        grant = await opened(client, asked)
        answer = await _answer(grant, policy)
        await client.seal(rollout_id)
    except asyncio.CancelledError:
        # The run is being stopped: to the engine, an open session is a rollout still in progress.
        await seal_stopped(client, rollout_id)
        raise
    if isinstance(answer, httpx.HTTPError):
        raise EngineError(f"the probe was not answered: {type(answer).__name__}: {answer}") from answer
    if answer.status_code != 200:
        raise EngineError(f"the probe was answered {answer.status_code}: {answer.text[:500]}")
    return rollout_id


async def _answer(grant: SessionGrant, policy: str) -> httpx.Response | httpx.HTTPError:
    """Return the answer to the probe's prompt, or why there is none."""
    body = {"model": policy, "messages": [{"role": "user", "content": _PROBE}]}
    # The engine is on loopback or in the same network: never use a proxy from the environment.
    async with httpx.AsyncClient(trust_env=False, timeout=120.0) as http:
        headers = {"authorization": f"Bearer {grant.secret}"}
        try:
            return await http.post(f"{grant.base_url}/chat/completions", json=body, headers=headers)
        except httpx.HTTPError as error:
            return error


async def probe(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> StepReport:
    """Return what the trainer computes for a short answer sampled now, without a step: `logprob_drift_fresh`, `nll`.

    Raises:
        EngineError: the call was not answered, or the trainer could not compute it.
    """
    return await _evaluate(client, policy, await sample(client, policy, sampling))


async def _evaluate(client: EngineClient, policy: str, rollout_id: str) -> StepReport:
    rollouts = (WeightedRollout(rollout_id=rollout_id, advantage=1.0),)
    return await client.step(policy, StepRequest(step_id=new_id(), rollouts=rollouts, objective="evaluate"))
