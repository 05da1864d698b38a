"""A small run's folder, written by the project's own recording: store, judge, history row; no engine is needed.

Its agent is hostile: every text that could be taken for HTML, a path, a control code or a format is in it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopback_judge import attempts_of

import woodshed
from woodshed.training.report.metrics import step_row
from woodshed.training.rollouts.groups import StepGroups
from woodshed.training.run.store import RunStore
from woodshed.types import (
    CallMetadata,
    Completion,
    Failure,
    Group,
    Judgement,
    Message,
    ModelCall,
    StepReport,
    TokenCall,
    ToolCall,
    ToolRequest,
    ToolSpec,
    Trajectory,
)

SCRIPT = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
MODEL = Path(__file__).parents[3] / "tiny_world" / "src" / "woodshed_tiny_world" / "weights" / "policy"
SYSTEM = Message(role="system", content="You keep a shop.")
TOOLS = (ToolSpec(name="look", description=f"Look it up. {SCRIPT}", parameters={"type": "object"}),)
SCENARIOS = ("price of/a lamp", "a&b=c?d#e%2F <i>")
ANSWERS = ("four good lamps 🪔🪔", "four lamps", "no idea \x1b[31m", "no idea \x1b[31m")
WORTH = {"good": 0.9, "four": 0.6, "no": 0.1}


async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
    """Score an attempt by its first word that has a worth; the first one shown is liked a little more."""
    scores = []
    for place, (name, text) in enumerate(attempts_of(user).items()):
        worth = next(value for word, value in WORTH.items() if word in text)
        scores.append(
            {"id": name, "explanation": f"worth {worth} {SCRIPT}", "score": worth + (0.05 if not place else 0)}
        )
    return json.dumps({"scores": scores})


def answered(
    message: Message, *, number: int, before: tuple[Message, ...], agent: str, version: int, key: str
) -> ModelCall:
    """Return one model call, whose tokens are those of the tiny tokenizer."""
    call_id = f"{key}/{number}"
    tokens = TokenCall(
        call_id=call_id, started_s=1000.0 + number, latency_s=0.5, messages=before, tools=TOOLS, prompt_ids=(1, 2, 3),
        completions=(
            Completion(
                index=0, message=message, token_ids=(1534, 1171, 2), logprobs=(-0.1, -2.5, -0.001),
                weight_versions=(version,) * 3, finish_reason="stop",
            ),
        ),
        sampling={"temperature": 1.0},
    )  # fmt: skip
    parent = None if number == 0 else f"{key}/0"
    return ModelCall(tokens=tokens, note=CallMetadata(call_id=call_id, agent=agent, parent_call_id=parent))


def rolled_out(key: str, scenario: str, text: str, *, version: int = 0, failed: Failure | None = None) -> Trajectory:
    """Return an attempt of two agents: a planner that calls a tool, and a writer."""
    task = (SYSTEM, Message(role="user", content=f"What is the {scenario}?"))
    asks = Message(
        role="assistant", tool_requests=(ToolRequest(id="t1", name="look", arguments=json.dumps({"item": text})),)
    )
    result = Message(role="tool", content=f"found {text} {SCRIPT}", tool_call_id="t1")
    says = Message(role="assistant", content=text)
    return Trajectory(
        rollout_id=key, scenario_id=scenario, status="failed" if failed else "completed", error=failed,
        calls=(
            answered(asks, number=0, before=task, agent="planner", version=version, key=key),
            answered(says, number=1, before=(*task, asks, result), agent="planner", version=version, key=key),
            answered(
                Message(role="assistant", content=f"written: {text}"), number=2, agent="writer", version=version,
                key=key, before=(Message(role="system", content="You write."), Message(role="user", content=text)),
            ),
        ),
        tool_calls=(
            ToolCall(tool_call_id="t1", name="look", arguments={"item": text}, result=result.content, latency_s=0.25),
            ToolCall(
                tool_call_id="t9", name="unread", arguments={}, latency_s=0.1,
                error=Failure(kind="ValueError", message=f"boom {SCRIPT}"),
            ),
        ),
        started_s=999.0, latency_s=5.0, metrics={"words": 3.0},
    )  # fmt: skip


@dataclass
class Recorded:
    """A run that is being written."""

    folder: Path
    store: RunStore = field(init=False)
    config: woodshed.TrainConfig = field(
        default_factory=lambda: woodshed.TrainConfig(steps=3, group_size=5, scenarios_per_step=2)
    )
    ruler: woodshed.Ruler | None = field(default_factory=lambda: woodshed.Ruler(judge, permutations=2))

    def __post_init__(self) -> None:
        self.store = RunStore(self.folder)

    def begin(self) -> None:
        """Write what a run writes before its first rollout."""
        settings = {
            "policy": woodshed.Policy(str(MODEL)).model_dump(mode="json"),
            "config": self.config.identity(),
            "reward": repr(self.ruler),
            "scenarios": {"ids": list(SCENARIOS)},
            "evaluation": {"ids": ["held/out <b>"], "rollouts_per_scenario": 2},
        }
        self.store.claim(settings, self.config.limits())
        self.store.save_fact("start_version", 0)
        self.store.run_id()

    def evaluate(self, name: str, values: Mapping[str, float]) -> None:
        """Store an evaluation of one held-out scenario."""
        slot = name.replace("_", "-")
        for number, (text, _) in enumerate(values.items()):
            key = f"{name}-{number}"
            self.store.save_trajectory(f"{slot}/held/out <b>/{number}", rolled_out(key, "held/out <b>", text))
        measured = {f"{name}-{number}": value for number, value in enumerate(values.values())}
        success = sum(values.values()) / len(values)
        facts = {"interval": (0.1, 0.9), "rollouts": len(values), "measured": measured, "success": success}
        for figure, value in facts.items():
            self.store.save_fact(f"{figure}_{name}", value)

    async def group(self, step: int, scenario: str, answers: tuple[str, ...] = ANSWERS) -> Group:
        """Store a group: the answers, one attempt that failed, and the judgement."""
        group_id = f"{step}/{scenario}"
        members = [rolled_out(f"{group_id}-{k}", scenario, text, version=step) for k, text in enumerate(answers)]
        members.append(
            rolled_out(f"{group_id}-failed", scenario, "half", failed=Failure(kind="ValueError", message=SCRIPT))
        )
        for number, member in enumerate(members):
            self.store.rollout_waits(f"{group_id}/{number}")
            self.store.rollout_runs(f"{group_id}/{number}", member.rollout_id)
            self.store.save_trajectory(f"{group_id}/{number}", member)
        judgement = None
        if self.ruler is not None:
            judgement = await self.ruler.judge_group(members)
            self.store.save_judgement(group_id, judgement)
        return Group(group_id=group_id, scenario_id=scenario, trajectories=tuple(members), judgement=judgement)

    async def step(self, step: int, *, metrics: Mapping[str, float] | None = None) -> None:
        """Store a step: its groups, its history row, and the importance ratios that a trainer keeps."""
        groups = [await self.group(step, scenario) for scenario in SCENARIOS]
        figures = {"loss": -0.01 * step, "entropy": 0.5, "step_seconds": 1.0, "staleness_mean": 0.0, **(metrics or {})}
        report = StepReport(step_id=f"step-{step:05d}", version=step + 1, trained=True, metrics=figures)
        sampled = StepGroups(groups=tuple(groups), flat=0, extra=0, seconds=2.0)
        self.store.save_step(step, report, step_row(step, sampled, report, stale=[], wait_s=1.0, train_s=0.5))
        ratios = {
            t.rollout_id: {c.tokens.call_id: [0.0, 0.25, -0.5] for c in t.calls} for g in groups for t in g.trajectories
        }
        file = self.folder / "engine" / "policies" / "policy" / self.store.run_id() / "log_ratios"
        file.mkdir(parents=True, exist_ok=True)
        (file / f"{step + 1:05d}.json.gz").write_bytes(gzip.compress(json.dumps(ratios).encode()))

    def close(self) -> None:
        """Close the store, as a run that ends."""
        self.store.close()


async def recorded(folder: Path, *, steps: int = 3) -> Path:
    """Write a finished run of some steps with two evaluations and a warning; return its folder."""
    run = Recorded(folder)
    run.begin()
    run.evaluate("before", {"no idea": 0.0, "four lamps": 0.0})
    for step in range(steps):
        await run.step(step)
    run.evaluate("after", {"four good lamps": 1.0, "four lamps": 0.0})
    run.store.add_warnings([f"step 2: something <b>odd</b> {SCRIPT}"])
    run.store.save_fact("totals", {"seconds": 75.0, "peak_rss_mb": 100.0})
    run.store.save_fact("finished", True)
    run.close()
    return folder


def unjudged() -> Judgement:
    """Return a judgement without a verdict."""
    return Judgement(judge="j", error=Failure(kind="JudgeError", message="no JSON"))
