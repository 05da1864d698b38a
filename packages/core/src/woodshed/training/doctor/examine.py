"""Which checks are made when: all of them by `woodshed doctor`, the quick ones before a run's first step."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from woodshed.engine.client.client import EngineClient
from woodshed.engine.client.local import ConnectedEngine, LocalEngine
from woodshed.errors import CheckError, WoodshedError
from woodshed.rewards.base import Reward
from woodshed.training.config import Policy
from woodshed.training.doctor.finding import Finding, failed, guarded, warned
from woodshed.training.doctor.judge import check_judge
from woodshed.training.doctor.machine import check_disk, check_memory, check_versions
from woodshed.training.doctor.serving import check_endpoints, check_template, check_tool_parser
from woodshed.training.doctor.weights import check_drift, check_learning, check_swap
from woodshed.types import LossSettings, OpenPolicy, OptimizerSettings

_ENGINE_LOG = "see the engine's logs; `woodshed engine install` brings what woodshed is tested with"
_JUDGE = "check the judge's name, address and key"
_TEMPLATE = "the model's chat template cannot write a plain conversation: is it an instruct model?"
_TOOLS = "the chat template cannot write a tool call: set Policy.tool_call_parser=None for an agent without tools"

Tell = Callable[[Finding], None]


def _quiet(_: str) -> None:
    """Show no progress."""


async def examine_policy(
    client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings, tell: Tell
) -> None:
    """Tell what an open policy's engine is found to be; nothing about the policy changes."""
    machine, place = await client.machine(), await client.adapter(policy)
    tell(check_versions(machine))
    tell(check_memory(machine))
    tell(check_disk(machine, place.size_mb))
    await _examine_serving(client, policy, tell)
    tell(await guarded("LoRA swap", check_swap(client, policy), _ENGINE_LOG))
    tell(await guarded("logprob drift", check_drift(client, policy, sampling, limits), _ENGINE_LOG))


async def _examine_serving(client: EngineClient, model: str, tell: Tell) -> None:
    serving = await client.serving(model)
    tell(endpoints := check_endpoints(serving))
    if endpoints.status != "fail":
        tell(await guarded("chat template", check_template(client, model, serving), _TEMPLATE))
        tell(await guarded("tool parser", check_tool_parser(client, model, serving), _TOOLS))


async def first_step(
    client: EngineClient, policy: str, sampling: Mapping[str, Any], limits: LossSettings, reward: Reward
) -> list[Finding]:
    """Return what gives a warning among the checks that a run begins with; the policy is open and stays as it is.

    Raises:
        CheckError: one failed, so that the run's rollouts would be wasted.
    """
    found: list[Finding] = []
    asked = asyncio.create_task(guarded("judge", check_judge(reward), _JUDGE))
    try:
        await examine_policy(client, policy, sampling, limits, found.append)
        found.append(await asked)
    finally:
        asked.cancel()
    if bad := failing(found):
        lines = "\n".join(f"- {f.check}: {f.found}. {f.advice}" for f in bad)
        raise CheckError(
            f"{len(bad)} of {len(found)} checks before the first step failed:\n{lines}\n"
            "Nothing was rolled out. `woodshed doctor` makes all checks; `checks=False` (`--no-checks`) skips these"
        )
    return [f for f in found if f.status == "warn"]


async def examine_run(
    engine: LocalEngine | ConnectedEngine,
    policy: Policy,
    reward: Reward | None,
    limits: LossSettings,
    tell: Tell,
    *,
    progress: Callable[[str], None] = _quiet,
) -> None:
    """Tell every finding about a policy, its engine and its judge; a local engine is started in a passing folder."""
    with tempfile.TemporaryDirectory(prefix="woodshed-doctor-") as home:
        try:
            async with engine.running([policy.served()], home=Path(home), progress=progress) as client:
                await _examine_all(client, policy, reward, limits, tell)
        except WoodshedError as error:
            tell(failed("engine", f"{type(error).__name__}: {error}", "nothing else can be checked until this works"))


async def _examine_all(
    client: EngineClient, policy: Policy, reward: Reward | None, limits: LossSettings, tell: Tell
) -> None:
    name = policy.served().name
    if reward is not None:
        tell(await guarded("judge", _bound_judge(reward, client), _JUDGE))
    if name in {opened.name for opened in (await client.health()).policies}:
        await _examine_serving(client, name, tell)
        tell(warned("weights", f"{name!r} is open for a run on this engine", "that run checks them before it starts"))
        return
    await client.open_policy(_own_policy(policy))
    await examine_policy(client, name, policy.sampling(), limits, tell)
    tell(await guarded("LoRA step", check_learning(client, name, policy.sampling()), _ENGINE_LOG))


async def _bound_judge(reward: Reward, client: EngineClient) -> Finding:
    return await check_judge(reward.bound(base_url=client.openai_base_url, api_key=client.api_key))


def _own_policy(policy: Policy) -> OpenPolicy:
    """Return a policy that is the doctor's own: on a shared engine, one folder for each shape of LoRA."""
    shape = hashlib.sha256(policy.lora.model_dump_json().encode()).hexdigest()[:12]
    return OpenPolicy(
        name=policy.served().name,
        run_id=f"doctor-{shape}",
        lora=policy.lora,
        optimizer=OptimizerSettings(learning_rate=1e-2, warmup_steps=0),
    )


def failing(findings: Sequence[Finding]) -> list[Finding]:
    """Return those that fail."""
    return [f for f in findings if f.status == "fail"]
