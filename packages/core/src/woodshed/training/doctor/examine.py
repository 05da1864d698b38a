"""Run the checks: all of them for `woodshed doctor`, the quick ones before a run's first step."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.local import ConnectedEngine, LocalEngine
from woodshed.engine.client.machine import machine
from woodshed.errors import CheckError, WoodshedError
from woodshed.rewards.base import Reward
from woodshed.training.config import Policy
from woodshed.training.doctor.finding import Finding, failed, guarded, warned
from woodshed.training.doctor.gpu import check_gpu
from woodshed.training.doctor.judge import check_judge
from woodshed.training.doctor.machine import check_disk, check_memory, check_versions
from woodshed.training.doctor.serving import check_endpoints, check_template, check_tool_parser
from woodshed.training.doctor.tool_calls import check_tool_calls
from woodshed.training.doctor.weights import check_drift, check_learning, check_swap, check_trainer
from woodshed.types import LossSettings, OpenPolicy, OptimizerSettings, Serving

_ENGINE_LOG = "see the engine's logs; `woodshed engine install` brings what woodshed is tested with"
_JUDGE = "check the judge's name, address and key"
_TEMPLATE = "the model's chat template cannot write a plain conversation: is it an instruct model?"
_TOOLS = "the chat template cannot write a tool call: set Policy.tool_call_parser=None for an agent without tools"

OnFinding = Callable[[Finding], None]
"""Called with each finding as soon as its check is done."""


def _quiet(_: str) -> None:
    """Show no progress."""


async def examine_policy(
    client: EngineClient,
    policy: str,
    sampling: Mapping[str, Any],
    limits: LossSettings,
    on_finding: OnFinding,
    *,
    thorough: bool = True,
) -> None:
    """Check an open policy and its engine; the policy is not changed."""
    on, place = await client.machine(), await client.adapter(policy)
    on_finding(check_versions(on))
    on_finding(check_memory(on))
    on_finding(check_disk(on, place.size_mb))
    serving = await _examine_serving(client, policy, on_finding)
    calling = check_tool_calls(client, policy, sampling, serving, thorough=thorough)
    on_finding(await guarded("tool calls", calling, _ENGINE_LOG))
    on_finding(await guarded("LoRA swap", check_swap(client, policy), _ENGINE_LOG))
    on_finding(await guarded("logprob drift", check_drift(client, policy, sampling, limits), _ENGINE_LOG))


async def _examine_serving(client: EngineClient, model: str, on_finding: OnFinding) -> Serving:
    serving = await client.serving(model)
    on_finding(endpoints := check_endpoints(serving))
    if endpoints.status != "fail":
        on_finding(await guarded("chat template", check_template(client, model, serving), _TEMPLATE))
        on_finding(await guarded("tool parser", check_tool_parser(client, model, serving), _TOOLS))
    return serving


async def first_step_checks(
    client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings, reward: Reward
) -> list[Finding]:
    """Run the quick checks on an open policy and return the warnings; the policy is not changed.

    Raises:
        CheckError: a check failed.
    """
    findings: list[Finding] = []
    judge_check = asyncio.create_task(guarded("judge", check_judge(reward), _JUDGE))
    try:
        await examine_policy(client, policy, sampling, limits, findings.append, thorough=False)
        findings.append(await judge_check)
    finally:
        judge_check.cancel()
    findings = [_softened(finding) for finding in findings]
    if failures := failing(findings):
        lines = "\n".join(f"- {f.check}: {f.found}. {f.advice}" for f in failures)
        raise CheckError(
            f"{len(failures)} of {len(findings)} checks before the first step failed:\n{lines}\n"
            "Nothing was rolled out. `woodshed doctor` runs all checks; `checks=False` (`--no-checks`) skips these"
        )
    return [f for f in findings if f.status == "warn"]


def _softened(finding: Finding) -> Finding:
    """Return a failure that a run may survive as a warning: its agent's own prompts may bring about tool calls."""
    is_soft = finding.check == "tool calls" and finding.status == "fail"
    return warned(finding.check, finding.found, finding.advice) if is_soft else finding


async def examine_run(
    engine: LocalEngine | ConnectedEngine,
    policy: Policy,
    reward: Reward | None,
    limits: LossSettings,
    on_finding: OnFinding,
    *,
    progress: Callable[[str], None] = _quiet,
) -> None:
    """Run all checks of a policy, its engine and its judge; a local engine is started in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="woodshed-doctor-") as home:
        # Before the engine starts: then vLLM's part is not free any more.
        if isinstance(engine, LocalEngine) and (gpus := (await asyncio.to_thread(machine, Path(home))).gpus):
            on_finding(check_gpu(policy, gpus, engine.gpu_sharing or "split"))
        try:
            async with engine.running([policy.served()], home=Path(home), progress=progress) as client:
                await _examine_all(client, policy, reward, limits, on_finding)
        except WoodshedError as error:
            on_finding(
                failed("engine", f"{type(error).__name__}: {error}", "nothing else can be checked until this works")
            )


async def _examine_all(
    client: EngineClient, policy: Policy, reward: Reward | None, limits: LossSettings, on_finding: OnFinding
) -> None:
    name = policy.served().name
    if reward is not None:
        on_finding(await guarded("judge", _bound_judge(reward, client), _JUDGE))
    if name in {opened.name for opened in (await client.health()).policies}:
        await _examine_serving(client, name, on_finding)
        on_finding(
            warned("weights", f"{name!r} is open for a run on this engine", "that run checks them before it starts")
        )
        return
    on_finding(check_trainer(await client.open_policy(_own_policy(policy))))
    await examine_policy(client, name, policy.sampling(), limits, on_finding)
    on_finding(await guarded("LoRA step", check_learning(client, name, policy.sampling()), _ENGINE_LOG))


async def _bound_judge(reward: Reward, client: EngineClient) -> Finding:
    return await check_judge(reward.bound(base_url=client.openai_base_url, api_key=client.api_key))


def _own_policy(policy: Policy) -> OpenPolicy:
    """Return the doctor's own policy: on a shared engine, one per LoRA configuration."""
    shape = hashlib.sha256(policy.lora.model_dump_json().encode()).hexdigest()[:12]
    return OpenPolicy(
        name=policy.served().name,
        run_id=f"doctor-{shape}",
        lora=policy.lora,
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=0),
    )


def failing(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that failed."""
    return [f for f in findings if f.status == "fail"]
