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
from woodshed.cli.sft import engine_at
from woodshed.engine.client.engine_process import engine_environment
from woodshed.engine.client.local import ConnectedEngine, LocalEngine
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
    """What to check: an engine, and a policy and a reward if given."""

    engine: LocalEngine | ConnectedEngine
    policy: Policy | None = None
    reward: Reward | None = None
    limits: LossSettings = field(default_factory=LossSettings)


def target(file: Path | None, *, model: str | None, judge: str | None, url: str | None, api_key: str | None) -> Target:
    """Return what to check. Arguments take precedence over the file."""
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


def examine(checked: Target, *, as_json: bool) -> int:
    """Run the checks, print their findings, and return the exit status: 1 if a check failed, else 0."""
    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    findings: list[Finding] = []

    def on_finding(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            _print(console, finding)

    with console.status("examining") as status:
        if checked.policy is not None:
            running = examine_run(
                checked.engine, checked.policy, checked.reward, checked.limits, on_finding, progress=status.update
            )
            asyncio.run(running)
        else:
            for finding in _check_environment():
                on_finding(finding)
            if checked.reward is not None:
                on_finding(asyncio.run(guarded("judge", check_judge(checked.reward), _JUDGE)))
    failures, warnings = len(failing(findings)), sum(f.status == "warn" for f in findings)
    if as_json:
        print(json.dumps({"failed": failures, "findings": [f.model_dump() for f in findings]}, indent=2))
    else:
        console.print(f"{len(findings)} checks: {failures} failed, {warnings} gave a warning")
    return 1 if failures else 0


def _check_environment() -> list[Finding]:
    """Check the engine's environment on this machine, without starting an engine."""
    try:
        machine = _machine()
    except WoodshedError as error:
        return [failed("machine", f"{type(error).__name__}: {error}", "run `woodshed engine install`")]
    return [check_versions(machine), check_memory(machine), check_disk(machine, 0.0)]


def _machine() -> Machine:
    python = engine_python()
    process = subprocess.run(
        [str(python), "-m", "woodshed.engine.client.machine", str(engine_home())],
        capture_output=True, text=True, env=engine_environment(python), check=False,
    )  # fmt: skip
    if process.returncode != 0:
        raise EngineError(f"the engine's environment does not run: {process.stderr.strip()[-500:]}")
    return Machine.model_validate_json(process.stdout)


def _print(console: Console, finding: Finding) -> None:
    line = Text(f"{finding.status}  ", style=_COLOURS[finding.status])
    line.append(f"{finding.check}: {finding.found}", style="default")
    console.print(line)
    if finding.advice:
        console.print(f"      → {finding.advice}", markup=False)
