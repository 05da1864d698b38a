"""Rows that train: on the engine's real trainer, with the adapter's own rollouts."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import inspect
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

import pytest

from woodshed.testing.conformance.judge_rows import grading
from woodshed.testing.conformance.rows import Rows, look, tool_texts, turn_of
from woodshed.testing.conformance.truth import assert_faithful, thrown_away
from woodshed.testing.engine import ScriptedEngine
from woodshed.testing.replies import Reply, call_tool, say
from woodshed.training.step_request import step_request
from woodshed.types import Group, Judgement, Score, StepRequest, Trajectory, WeightedRollout

STEPS, MEMBERS = 2, 2


class TrainingRows(Rows):
    """Rows 17, 18 and 19."""

    def test_row_17_a_run_that_is_killed_trains_each_rollout_once_and_pays_each_verdict_once(
        self, tmp_path: Path
    ) -> None:
        self._needs_policy()
        self.engine.vllm.play(_by_seed(self))
        with ScriptedEngine(grading(lambda found: json.dumps({"scores": found}))) as judge:
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
        assert self.author.asked == []

    def test_row_18_where_weights_change_mid_rollout_every_token_has_its_version_and_logprob(self) -> None:
        self._needs_policy()
        before = [self._rollout(number) for number in range(2)]
        version = self.engine.open_some_policy()

        def learn(item: str) -> str:
            """Look something up while the weights change."""
            better, worse = (t.rollout_id for t in before)
            weighted = (
                WeightedRollout(rollout_id=better, advantage=1),
                WeightedRollout(rollout_id=worse, advantage=-1),
            )
            return f"version {self.engine.step(StepRequest(step_id='mid-rollout', rollouts=weighted)).version}"

        agent = self.assistant(self.author.base_url, tools=[learn])
        trajectory, _ = self.practise(
            lambda request: say("I know it now") if turn_of(request) else call_tool("learn", item="x"),
            lambda: self.run(agent, "What do you know?"),
        )

        (row,) = assert_faithful(trajectory, self.engine.requests)
        first, second = (call.tokens for call in trajectory.calls)
        assert f"version {version + 1}" in tool_texts(self.engine.requests[1].body)[0]
        tokens = zip(row.call_ids, row.weight_versions, row.logprobs, strict=True)
        assert [token for token in tokens if token[0] is not None] == [
            (call.call_id, own, logprob)
            for call, own in ((first, version), (second, version + 1))
            for logprob in call.completions[0].logprobs
        ]

    def test_row_19_a_rollout_that_failed_by_infrastructure_leaves_no_trace_in_the_parameters(self) -> None:
        self._needs_policy()
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
        agent = self.assistant(self.author.base_url, tools=[look])

        def work(_: Any) -> None:
            self.run(agent, "How many lamps?")
            if error is not None:
                raise error

        self.engine.vllm.play(
            lambda request: say(f"answer {number}") if turn_of(request) else call_tool("look", item=f"lamps-{number}")
        )
        trajectory = self.as_trained(work)
        assert not thrown_away(trajectory)
        return trajectory

    def _train(self, folder: Path, judge_url: str, kill: str) -> subprocess.CompletedProcess[str]:
        """Run (or go on with) a training of this adapter's agent in a process of its own."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "woodshed.testing.conformance.killed_run"),
                *("--file", inspect.getfile(type(self)), "--class", type(self).__name__, "--engine", self.engine.url),
                *("--author", self.author.base_url, "--judge", judge_url, "--run", str(folder / "run"), "--kill", kill),
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _needs_policy(self) -> None:
        if self.policy is None:
            pytest.skip("the adapter's contract names no small model to train (`policy`)")


def _by_seed(rows: Rows) -> Any:
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
