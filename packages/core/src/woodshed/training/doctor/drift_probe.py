"""Measure the drift of a step whose rollouts hold no token of the weights that it trains, as prefetching makes them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.errors import DriftError, EngineError
from woodshed.training.doctor.weights import judge_drift, probe
from woodshed.types import Group, LossSettings

_log = logging.getLogger("woodshed.training")


def has_fresh_token(groups: Sequence[Group], trained: Collection[str], version: int) -> bool:
    """Whether a token that will be trained was sampled by weights `version`; `trained` are ids of rollouts."""
    rollouts = (t for g in groups for t in g.trajectories if t.rollout_id in trained)
    calls = (c for t in rollouts for c in t.calls if not (c.superseded or c.tokens.constrained))
    return any(version in answer.weight_versions for c in calls for answer in c.tokens.completions)


async def drift_by_probe(
    client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings
) -> dict[str, float]:
    """Return the drift over a short answer that the engine samples now, as metrics of a step; empty if there is none.

    It costs one answer of a few tokens and one forward pass over them, and changes nothing.

    Raises:
        DriftError: it is above `drift_stop`.
    """
    try:
        report = await probe(client, policy, sampling)
    except EngineError as error:
        _log.warning("the drift between engine and trainer was not measured: %s", error)
        return {}
    if (drift := report.metrics.get("logprob_drift_fresh")) is None:
        return {}
    tokens = report.metrics["trained_tokens"]
    finding = judge_drift(drift, tokens, limits)
    if finding.status == "fail":
        raise DriftError(
            f"trainer and engine differ by {finding.found} (LossSettings.drift_stop): {finding.advice}. No step was "
            "taken and the weights are as before"
        )
    if finding.status == "warn":
        _log.warning("trainer and engine differ by %s (LossSettings.drift_warn): %s", finding.found, finding.advice)
    return {"logprob_drift_fresh": drift, "drift_probe_tokens": tokens}
