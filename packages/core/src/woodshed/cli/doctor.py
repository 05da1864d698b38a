"""`woodshed doctor`: arguments → checks → lines, or JSON."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from woodshed.cli.files import load_training
from woodshed.cli.warm_up import engine_at
from woodshed.engine.client.local import ConnectedEngine, LocalEngine, engine_environment
from woodshed.engine.client.provision import engine_home, engine_python
from woodshed.errors import EngineError, WoodshedError
from woodshed.rewards.base import Reward
from woodshed.rewards.ruler import Ruler
from woodshed.training.config import Policy
from woodshed.training.doctor import Finding, examine_run, failing
from woodshed.training.doctor.finding import failed, guarded
from woodshed.training.doctor.judge import check_judge
from woodshed.training.doctor.machine import check_disk, check_memory, check_versions
from woodshed.types import LossSettings, Machine

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_JUDGE = "check the judge's name, address and key"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is examined: a policy on an engine and its judge, or what there is of them."""

    engine: LocalEngine | ConnectedEngine
    policy: Policy | None = None
    reward: Reward | None = None
    limits: LossSettings = field(default_factory=LossSettings)


def target(file: Path | None, *, model: str | None, judge: str | None, url: str | None, api_key: str | None) -> Target:
    """Return what the arguments name; they win over the file."""
    engine = engine_at(url, api_key)
    reward = Ruler(judge=judge) if judge is not None else None
    if file is None:
        return Target(engine=engine, policy=Policy(model) if model else None, reward=reward)
    training = load_training(file)
    return Target(
        engine=training.engine if url is None else engine,
        policy=training.policy if model is None else training.policy.model_copy(update={"model": model}),
        reward=reward or training.reward,
        limits=training.config.loss,
    )


def examine(found_in: Target, *, as_json: bool) -> int:
    """Make the checks, print what they find, and return the exit status: 1 where one fails."""
    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            _print(console, finding)

    with console.status("examining") as status:
        if found_in.policy is not None:
            running = examine_run(
                found_in.engine, found_in.policy, found_in.reward, found_in.limits, tell, progress=status.update
            )
            asyncio.run(running)
        else:
            for finding in _check_environment():
                tell(finding)
            if found_in.reward is not None:
                tell(asyncio.run(guarded("judge", check_judge(found_in.reward), _JUDGE)))
    bad, warnings = len(failing(found)), sum(f.status == "warn" for f in found)
    if as_json:
        print(json.dumps({"failed": bad, "findings": [f.model_dump() for f in found]}, indent=2))
    else:
        console.print(f"{len(found)} checks: {bad} failed, {warnings} gave a warning")
    return 1 if bad else 0


def _check_environment() -> list[Finding]:
    """Check the engine's environment on this machine, without starting an engine."""
    try:
        machine = _machine()
    except WoodshedError as error:
        return [failed("machine", f"{type(error).__name__}: {error}", "run `woodshed engine install`")]
    return [check_versions(machine), check_memory(machine), check_disk(machine, 0.0)]


def _machine() -> Machine:
    python = engine_python()
    done = subprocess.run(
        [str(python), "-m", "woodshed.engine.client.machine", str(engine_home())],
        capture_output=True, text=True, env=engine_environment(python), check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise EngineError(f"the engine's environment does not run: {done.stderr.strip()[-500:]}")
    return Machine.model_validate_json(done.stdout)


def _print(console: Console, finding: Finding) -> None:
    line = Text(f"{finding.status}  ", style=_COLOURS[finding.status])
    line.append(f"{finding.check}: {finding.found}", style="default")
    console.print(line)
    if finding.advice:
        console.print(f"      → {finding.advice}", markup=False)
