"""Rows about what a step makes of a run that is killed and of a rollout that fails, on the engine's real trainer."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from woodshed.testing.conformance.judge_rows import grading
from woodshed.testing.conformance.plain_agent import PlainAgent
from woodshed.testing.conformance.rows import CoreRows, look, tool_texts, turn_of
from woodshed.testing.conformance.truth import thrown_away
from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import Reply, Script, call_tool, say
from woodshed.training.step_request import step_request
from woodshed.types import Group, Judgement, Score, Trajectory

STEPS, MEMBERS = 2, 2


class TrainingRows(CoreRows):
    """Rows 17 and 19."""

    def test_row_17_a_run_that_is_killed_trains_each_rollout_once_and_pays_each_verdict_once(
        self, tmp_path: Path
    ) -> None:
        self.needs_policy()
        self.engine.vllm.play(_by_seed())
        with ScriptedEngine(grading(lambda entries: json.dumps({"scores": entries}))) as judge:
            # Killed once with a verdict in hand that no store has yet, once between the verdicts and the step.
            runs = [self._train(tmp_path, judge.base_url, kill) for kill in ("verdict", "step", "never")]
            asked = len(self.engine.vllm.asked)
            paid = Counter(seen.body["messages"][1]["content"] for seen in judge.requests)

        assert [run.returncode for run in runs] == [-signal.SIGKILL, -signal.SIGKILL, 0], runs[-1].stderr
        assert list(paid.values()) == [1] * STEPS
        assert asked == 2 * STEPS * MEMBERS
        with closing(sqlite3.connect(tmp_path / "run" / "run.sqlite")) as run:
            rollouts = [row[0] for row in run.execute("SELECT rollout_id FROM trajectories")]
            reports = [json.loads(row[0]) for row in run.execute("SELECT body FROM steps ORDER BY position")]
        assert len(set(rollouts)) == STEPS * MEMBERS
        assert [(r["version"], r["trained"], r["quarantined"]) for r in reports] == [(1, True, {}), (2, True, {})]
        assert [r["metrics"]["rollouts"] for r in reports] == [float(MEMBERS)] * STEPS

    def test_row_19_a_rollout_that_failed_by_infrastructure_leaves_no_trace_in_the_parameters(self) -> None:
        self.needs_policy()
        good = [self._rollout(number) for number in range(2)]
        failed = self._rollout(2, error=ConnectionError("the database is gone"))
        assert (failed.status, len(failed.calls)) == ("failed", 2)
        judgement = Judgement(
            scores=tuple(Score(rollout_id=t.rollout_id, value=v) for t, v in zip(good, (0.9, 0.1), strict=True))
        )
        zero = judgement.model_copy(
            update={"scores": (*judgement.scores, Score(rollout_id=failed.rollout_id, value=0.0))}
        )
        rewarded = failed.model_copy(update={"status": "completed"})

        without, beside, as_zero = self.engine.parameters_after(
            [
                step_request("step", [_group(good, judgement)], 1e-3),
                step_request("step", [_group([*good, failed], judgement)], 1e-3),
                step_request("step", [_group([*good, rewarded], zero)], 1e-3),
            ]
        )

        assert beside == without
        assert as_zero != without, "the check would not notice a failed rollout that counts as reward 0"

    def _rollout(self, number: int, error: Exception | None = None) -> Trajectory:
        """Return one rollout with a tool call and an answer of its own; `error` ends it after that."""
        agent = PlainAgent([look])

        def work(_: Any) -> None:
            agent.run("How many lamps?")
            if error is not None:
                raise error

        self.engine.vllm.play(
            lambda request: say(f"answer {number}") if turn_of(request) else call_tool("look", item=f"lamps-{number}")
        )
        trajectory = self.as_trained(work)
        assert not thrown_away(trajectory)
        return trajectory

    def _train(self, folder: Path, judge_url: str, kill: str) -> subprocess.CompletedProcess[str]:
        """Run (or go on with) a training in a process of its own."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "woodshed.testing.conformance.killed_run"),
                *("--policy", str(self.policy), "--engine", self.engine.url, "--judge", judge_url),
                *("--run", str(folder / "run"), "--kill", kill),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def _by_seed() -> Script:
    """Return a model whose first answer is right and whose second is wrong, for each question."""
    seen: Counter[str] = Counter()

    def script(request: dict[str, Any]) -> Reply:
        question = re.findall(r"question-\d", json.dumps(request["messages"]))[-1]
        if turn_of(request) == 0:
            seen[question] += 1
            return call_tool("look", id=f"call_{seen[question]}", item=f"{question} {seen[question]}")
        return say("RIGHT" if f"{question} 1" in tool_texts(request)[-1] else "WRONG")

    return script


def _group(members: list[Trajectory], judgement: Judgement) -> Group:
    return Group(group_id="g", scenario_id="s", trajectories=tuple(members), judgement=judgement)
