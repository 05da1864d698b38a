"""Check that the policy and its training fit on the GPU together, and plan how they share it."""

from __future__ import annotations

from collections.abc import Sequence

from woodshed.engine.client.config import GpuSharing
from woodshed.training.config import Policy
from woodshed.training.doctor.finding import Finding, passed, warned
from woodshed.training.doctor.gpu_plan import GpuPlan, config_of, figures_of, plan
from woodshed.types import Gpu

_LONGEST = 4096
"""Tokens of a rollout that should fit, where the policy does not say how long they get."""
_HOW = {
    "split": "Engine.local(models={'policy': ServedModel(..., trainable=True, gpu_memory_fraction=%s)})",
    "sleep": "Engine.local(gpu_sharing='sleep'), with gpu_memory_fraction=%s for the policy",
}


def check_gpu(policy: Policy, gpus: Sequence[Gpu], sharing: GpuSharing) -> Finding:
    """Plan both ways to share the first of `gpus`, as they are before the engine starts; warn where `sharing` fails."""
    gpu, longest = gpus[0], policy.max_model_len or _LONGEST
    where = f"{gpu.name}, {gpu.free_mb:,.0f} of {gpu.total_mb:,.0f} MiB free"
    config = config_of(policy.model)
    try:
        figures = None if config is None else figures_of(config, lora_rank=policy.lora.rank)
    except (KeyError, TypeError, ValueError):
        figures = None
    if figures is None:
        return passed(
            "GPU", f"{where}; no plan: this machine has no config.json of {policy.model!r} that says its sizes"
        )
    plans: dict[GpuSharing, GpuPlan] = {
        way: plan(figures, total_mb=gpu.total_mb, free_mb=gpu.free_mb, sharing=way) for way in ("split", "sleep")
    }
    found = f"{where}. " + "; ".join(told(one) for one in plans.values())
    if plans[sharing].fits(longest):
        return passed("GPU", found)
    other = next((one for one in plans.values() if one.fits(longest)), None)
    if other is None:
        advice = f"rollouts of {longest:,} tokens fit in neither way: a smaller model, a lower max_model_len, or 4 bits"
    else:
        advice = f"for rollouts of {longest:,} tokens: {_HOW[other.sharing] % other.gpu_memory_fraction}"
    return warned("GPU", found, advice)


def told(one: GpuPlan) -> str:
    """Return a plan in a few words."""
    if not one.gpu_memory_fraction:
        return f"{one.sharing}: the model does not fit"
    return (
        f"{one.sharing}: gpu_memory_fraction {one.gpu_memory_fraction:g}, KV cache for {one.kv_tokens:,} tokens, "
        f"{one.step_mb:,.0f} MiB for a step (rollouts up to {one.longest_tokens:,} tokens)"
    )
