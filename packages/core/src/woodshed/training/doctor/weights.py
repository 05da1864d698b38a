"""The weights: whether a LoRA gets into vLLM, and whether trainer and engine then are the same policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from woodshed.capture import new_id
from woodshed.engine.client.client import EngineClient
from woodshed.errors import EngineError
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import LossSettings, OpenSession, StepReport, StepRequest, WeightedRollout

_PROBE = "Tell me something that you know about the sea."
_TOKENS, _PROBES = 24, 2
_ADVICE = (
    "trainer and vLLM do not hold the same policy: look for another base model or adapter, a quantised model, or a "
    "temperature that is not Policy.temperature"
)


async def check_swap(client: EngineClient, policy: str) -> Finding:
    """Check that vLLM loads the policy's adapter, answers with it and lets it go again."""
    rehearsal = await client.test_adapter_load(policy)
    return passed("LoRA swap", f"loaded, asked and unloaded; loading took {1000 * rehearsal.seconds:.0f} ms")


async def check_drift(client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings) -> Finding:
    """Check that the trainer gives the tokens of a probe the log-probabilities that the engine sampled them with."""
    report = await _looked_at(client, policy, await sample(client, policy, sampling))
    if (drift := report.metrics.get("logprob_drift_fresh")) is None:
        why = "; ".join(report.quarantined.values()) or "nothing was sampled"
        return warned("logprob drift", f"not measured: {why}", "look at the first step's logprob_drift_fresh")
    return judge_drift(drift, report.metrics["trained_tokens"], limits)


def judge_drift(drift: float, tokens: float, limits: LossSettings) -> Finding:
    """Return what a drift, in nats a token, means under a run's limits."""
    said = f"{drift:.2g} nats a token over {tokens:.0f} tokens of a probe"
    if not drift <= limits.drift_stop:
        return failed("logprob drift", f"{said}, above drift_stop={limits.drift_stop}", _ADVICE)
    if drift > limits.drift_warn:
        return warned("logprob drift", f"{said}, above drift_warn={limits.drift_warn}", _ADVICE)
    return passed("logprob drift", said)


async def check_learning(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> Finding:
    """Take one real step, and check that new calls are answered by the weights it made.

    Changes the policy: for one that is the doctor's own.
    """
    rollouts = [await sample(client, policy, sampling) for _ in range(_PROBES)]
    before = await _looked_at(client, policy, rollouts[0])
    weighted = tuple(WeightedRollout(rollout_id=r, advantage=1.0) for r in rollouts)
    step = await client.step(policy, StepRequest(step_id=new_id(), rollouts=weighted, objective="supervised"))
    after = await _looked_at(client, policy, rollouts[0])
    fresh = await _looked_at(client, policy, await sample(client, policy, sampling))
    moved = abs(after.metrics["nll"] - before.metrics["nll"])
    drift = fresh.metrics.get("logprob_drift_fresh")
    if drift is None or drift > max(0.1 * moved, 0.02):
        found = f"a step moved the policy by {moved:.2g} nats a token, and vLLM is {drift} away from what it became"
        return failed("LoRA step", found, "new calls are not answered by the new weights: see the engine's vLLM log")
    return passed("LoRA step", f"a step to version {step.version} is served; it moved the policy by {moved:.2g} nats")


async def sample(client: EngineClient, policy: str, sampling: Mapping[str, Any]) -> str:
    """Return the id of a sealed rollout of one short answer.

    Raises:
        EngineError: the call was not answered.
    """
    rollout_id = f"doctor-{new_id()}"
    grant = await client.open_session(
        OpenSession(rollout_id=rollout_id, policy=policy, sampling={**sampling, "max_tokens": _TOKENS})
    )
    body = {"model": policy, "messages": [{"role": "user", "content": _PROBE}]}
    # The engine may be on loopback or in the same network: a proxy of the environment never leads there.
    async with httpx.AsyncClient(trust_env=False, timeout=120.0) as http:
        headers = {"authorization": f"Bearer {grant.secret}"}
        try:
            answer = await http.post(f"{grant.base_url}/chat/completions", json=body, headers=headers)
        except httpx.HTTPError as error:
            raise EngineError(f"the probe was not answered: {type(error).__name__}: {error}") from error
    await client.seal(rollout_id)
    if answer.status_code != 200:
        raise EngineError(f"the probe was answered {answer.status_code}: {answer.text[:500]}")
    return rollout_id


async def _looked_at(client: EngineClient, policy: str, rollout_id: str) -> StepReport:
    rollouts = (WeightedRollout(rollout_id=rollout_id, advantage=1.0),)
    return await client.step(policy, StepRequest(step_id=new_id(), rollouts=rollouts, objective="evaluate"))
