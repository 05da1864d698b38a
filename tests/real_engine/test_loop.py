"""The loop on the real engine: what was sampled is trained once, what broke is masked, and a killed run goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import openai
import pytest

import woodshed
from woodshed.engine import EngineClient
from woodshed.testing.waiting import eventually
from woodshed.training.doctor.drift_probe import drift_by_probe
from woodshed.training.run.store import RunStore
from woodshed_tiny_world import policy_path

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
QUESTIONS = ["Is the Horn still in stock?", "How many of the Tuba do you have?"]


@woodshed.rollout
async def ask(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": question}], max_completion_tokens=12
        )


def length(trajectory: woodshed.Trajectory) -> float:
    """Score an answer by its length, and equally long ones apart, so that every group is trained."""
    apart = int(trajectory.rollout_id[:8], 16) / 16**9
    return apart + sum(len(m.token_ids) for c in trajectory.calls for m in c.tokens.completions) / 12


def training(engine: EngineClient, run_dir: Path, **changes: Any) -> woodshed.Training:
    settings: dict[str, Any] = {
        "rollout": ask,
        "scenarios": QUESTIONS,
        "policy": woodshed.Policy(str(policy_path()), max_model_len=512),
        "reward": woodshed.FunctionReward(length),
        "engine": woodshed.Engine.connect(engine.url, api_key=engine.api_key),
        "config": woodshed.TrainConfig(steps=2, group_size=4, scenarios_per_step=2),
        "run_dir": run_dir,
        "checks": False,
    }
    return woodshed.Training(**settings | changes)


def on_policy(**settings: Any) -> woodshed.TrainConfig:
    return woodshed.TrainConfig(
        **{"steps": 1, "group_size": 4, "scenarios_per_step": 2, "max_staleness": 0, **settings}
    )


def versions(store: RunStore, step: int) -> set[int]:
    return sampled_by([store.trajectory(f"{step}/scenario-{s}/{k}") for s in range(2) for k in range(4)])


def sampled_by(found: Sequence[woodshed.Trajectory | None]) -> set[int]:
    return {v for t in found if t for c in t.calls for m in c.tokens.completions for v in m.weight_versions}


async def test_each_step_is_sampled_from_the_weights_the_step_before_made_and_the_next_run_from_the_base_model(
    engine: EngineClient, tmp_path: Path
) -> None:
    run = await woodshed.train_async(training(engine, tmp_path / "r", config=on_policy(steps=2)))
    second = await woodshed.train_async(training(engine, tmp_path / "second", config=on_policy()))

    store = RunStore(run.folder)
    trained = [row["version"] for row in run.history]
    assert versions(store, 0) == {0}
    assert versions(store, 1) == {trained[0]}
    assert versions(RunStore(second.folder), 0) == {0}
    assert second.history[0]["version"] <= 1
    assert run.summary.failed_calls == 0
    figures = json.loads((run.folder / "summary.json").read_text())
    assert figures["steps"] == 2
    assert figures["train_tokens_per_s"] > 0
    assert 0 < figures["max_logprob_drift"] < 1e-3
    assert (figures["merge_ratio"], figures["forks"]) == (1.0, 0)
    assert (run.folder / "plot.png").stat().st_size > 1000


@dataclass(frozen=True, repr=False)
class Slow(woodshed.FunctionReward):
    """Scores a step when a call of the next one has been answered, so by weights that this step has not made yet."""

    database: Path = Path()
    answered: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return "reward"

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        step = int(_slots(self.database)[trajectories[0].rollout_id].split("/")[0])
        wanted = min(8 * (step + 1) + 1, 24)
        await eventually(lambda: len(self.answered) >= wanted, f"{wanted} calls are answered", 120)
        return await super().judge_group(trajectories)


async def test_rollouts_of_a_step_run_while_the_step_before_it_is_trained(engine: EngineClient, tmp_path: Path) -> None:
    config = woodshed.TrainConfig(steps=3, group_size=4, scenarios_per_step=2)
    slow = Slow(length, database=tmp_path / "r" / "run.sqlite")

    @woodshed.rollout
    async def ask_twice(question: str) -> None:
        await ask(question)
        slow.answered.append(question)
        await asyncio.sleep(0.5)
        await ask(question)

    run = await woodshed.train_async(training(engine, tmp_path / "r", rollout=ask_twice, reward=slow, config=config))

    store, (first, second, third) = RunStore(run.folder), run.history
    v1, v2 = first["version"], second["version"]
    assert (first["trained"], second["trained"], third["trained"]) == (True, True, True)
    assert versions(store, 0) == {0}
    assert {0} <= versions(store, 1) <= {0, v1}
    assert {v1} <= versions(store, 2) <= {v1, v2}
    assert [row["train/staleness_max"] for row in run.history] == [0, 1, 1]
    assert second["wait_s"] < second["rollout_s"]
    assert run.summary.stale_groups == 0


async def test_a_finished_run_with_more_steps_goes_on_from_its_last_checkpoint(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = woodshed.Evaluation(scenarios=[{"id": "h", "text": QUESTIONS[0]}], measure=lambda t, s: length(t))

    @woodshed.rollout
    async def ask_any(question: str | dict[str, str]) -> None:
        await ask(question if isinstance(question, str) else question["text"])

    def go(steps: int) -> Coroutine[Any, Any, woodshed.Run]:
        settings = training(
            engine, tmp_path / "r", rollout=ask_any, reward=Plain(length), config=on_policy(steps=steps),
            evaluation=evaluation,
        )  # fmt: skip
        return woodshed.train_async(settings)

    short = await go(1)
    longer = await go(3)
    again = await go(3)

    store = RunStore(tmp_path / "r")
    assert longer.history[0] == short.history[0]
    assert [row["version"] for row in longer.history] == [1, 2, 3]
    # Adam's warm-up counts on, so the optimizer is the same one.
    rates = [row["train/learning_rate"] for row in longer.history]
    assert rates == pytest.approx([rates[0] * k for k in (1, 2, 3)])
    assert [versions(store, step) for step in range(3)] == [{0}, {1}, {2}]
    assert (longer.summary.steps, longer.summary.lora_swaps, longer.summary.rollouts) == (3, 3, 24)
    assert longer.summary.seconds > short.summary.seconds
    assert longer.summary.success_before == short.summary.success_before
    assert store.fact("success_after_step_1") == short.summary.success_after
    assert (again.summary, again.history) == (longer.summary, longer.history)
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
    said = capsys.readouterr().out
    assert "finished after 1 steps, and goes on" in said and "is finished: 3 steps" in said


async def test_success_is_measured_by_each_steps_weights_and_what_was_measured_is_not_repeated(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = [{"id": f"h{n}", "text": text} for n, text in enumerate(QUESTIONS)]

    @woodshed.rollout
    async def ask_any(question: str | dict[str, str]) -> None:
        await ask(question if isinstance(question, str) else question["text"])

    def is_first(trajectory: woodshed.Trajectory, scenario: Any) -> float:
        return float(sampled_by([trajectory]) == {1})

    def go() -> Coroutine[Any, Any, woodshed.Run]:
        settings = training(
            engine, tmp_path / "r", rollout=ask_any, reward=Plain(length),
            config=on_policy(steps=9, max_staleness=1, keep_checkpoints=1),
            evaluation=woodshed.Evaluation(scenarios=held_out, measure=is_first, every=1, patience=3),
        )  # fmt: skip
        return woodshed.train_async(settings)

    database = tmp_path / "r" / "run.sqlite"
    running = asyncio.create_task(go())
    await eventually(
        lambda: running.done() or (database.exists() and any(s.startswith("after-step-2/") for s in _stored(database))),
        "the second evaluation has begun", 240,
    )  # fmt: skip
    assert not running.done(), running.exception()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = _slots(database)
    run = await go()
    again = await go()

    store, summary = RunStore(run.folder), run.summary
    last = [store.trajectory(f"after/{s['id']}/0") for s in held_out]
    for step in (1, 2, 3):
        rollouts = [store.trajectory(f"after-step-{step}/{s['id']}/0") for s in held_out]
        assert sampled_by(rollouts) == {run.history[step - 1]["version"]} == {step}
    assert sampled_by(last) == {4}
    assert before.items() <= _slots(database).items()
    assert [(p.step, p.version, p.success) for p in summary.evaluations] == [
        (0, 0, 0.0), (1, 1, 1.0), (2, 2, 0.0), (3, 3, 0.0), (4, 4, 0.0)
    ]  # fmt: skip
    assert (summary.steps, summary.best_step, summary.best_success) == (4, 1, 1.0)
    assert summary.best_interval == pytest.approx((0.342, 1.0), abs=1e-3)
    assert summary.best_adapter is not None and summary.last_adapter is not None
    assert [Path(folder).name for folder in (summary.best_adapter, summary.last_adapter)] == ["00001", "00004"]
    assert sorted(p.name for p in Path(store.fact("checkpoints")).iterdir()) == ["00001", "00004"]
    assert (Path(summary.best_adapter) / "adapter_model.safetensors").exists()
    assert [w for w in summary.warnings if w.startswith("stopped after step 4 of 9: 3 held-out evaluations in a row")]
    assert [row["stale_groups"] for row in run.history] == [0] * 4
    # Prefetching goes on beside an evaluation, and what it makes unmeasurable is measured on an answer of its own.
    assert max(row["train/staleness_max"] for row in run.history) == 1
    assert all(0 <= row["train/logprob_drift_fresh"] < 1e-3 for row in run.history)
    assert (again.summary, again.history) == (summary, run.history)
    assert "best 1.000 [0.342, 1.000] after step 1" in capsys.readouterr().out


def _stored(database: Path) -> list[str]:
    try:
        return list(_slots(database).values())
    except sqlite3.OperationalError:
        return []  # its tables are about to be made


async def test_drift_is_measured_where_no_rollout_of_a_step_has_a_token_of_its_weights(
    engine: EngineClient, tmp_path: Path
) -> None:
    @dataclass(frozen=True, repr=False)
    class Ahead(Plain):
        """Scores the first step when the second is sampled too, so from the same weights."""

        async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
            await eventually(lambda: len(_slots(tmp_path / "r" / "run.sqlite")) == 16, "both steps are sampled", 120)
            return await super().judge_group(trajectories)

    config = on_policy(steps=2, max_staleness=1)
    run = await woodshed.train_async(training(engine, tmp_path / "r", reward=Ahead(length), config=config))

    first, second = run.history
    assert versions(RunStore(run.folder), 1) == {0} and second["train/staleness_mean"] == 1.0
    assert "train/drift_probe_tokens" not in first
    assert second["train/drift_probe_tokens"] > 0
    assert 0 < second["train/logprob_drift_fresh"] < 1e-3
    assert second["version"] == 2 and run.summary.warnings == ()
    limits = woodshed.LossSettings(drift_warn=1e-12, drift_stop=1e-12)
    with pytest.raises(woodshed.DriftError, match=r"differ by .* tokens, above drift_stop=1e-12.*No step was taken"):
        await drift_by_probe(engine, "policy", woodshed.Policy("m").sampling(), limits)


@dataclass(frozen=True, repr=False)
class Stuck(woodshed.FunctionReward):
    """Scores the first step when the second is sampled too, so from the same weights; its verdicts never come."""

    database: Path = Path()

    def __repr__(self) -> str:
        return "reward"

    async def judge_group(self, trajectories: Sequence[woodshed.Trajectory]) -> woodshed.Judgement:
        await eventually(lambda: len(_slots(self.database)) == 16, "both steps are sampled", 120)
        if not _slots(self.database)[trajectories[0].rollout_id].startswith("0/"):
            await asyncio.Event().wait()
        return await super().judge_group(trajectories)


class Plain(woodshed.FunctionReward):
    def __repr__(self) -> str:
        return "reward"


async def test_a_stopped_run_goes_on_and_what_has_grown_too_old_is_dropped_and_said(
    engine: EngineClient, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    def go(reward: woodshed.FunctionReward, max_staleness: int) -> Coroutine[Any, Any, woodshed.Run]:
        config = on_policy(steps=2, max_staleness=max_staleness)
        return woodshed.train_async(training(engine, tmp_path / "r", reward=reward, config=config))

    running = asyncio.create_task(go(Stuck(length, database=tmp_path / "r" / "run.sqlite"), 1))
    store = RunStore(tmp_path / "r")
    await eventually(lambda: store.history() or running.done(), "the first step is taken", 240)
    assert not running.done(), running.exception()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "stopped; finished work is kept" in capsys.readouterr().out

    run = await go(Plain(length), 0)

    assert [row["stale_groups"] for row in run.history] == [0, 2]
    assert [row["trained"] for row in run.history] == [True, False]
    assert run.summary.stale_groups == 2
    assert "step 2: 2 of 2 groups dropped: they hold tokens of weights more than max_staleness=0 steps" in caplog.text


def _slots(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(database)) as db:
        return dict(db.execute("SELECT rollout_id, slot FROM trajectories"))


async def test_a_step_refused_for_drift_ends_the_run_and_is_sampled_anew_by_the_next(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = on_policy(steps=2, max_staleness=1, loss=woodshed.LossSettings(drift_warn=1e-12, drift_stop=1e-12))

    database = tmp_path / "r" / "run.sqlite"
    with pytest.raises(
        woodshed.DriftError, match=r"differ by.*0 of 2 steps taken.*same command again.*drift_stop above"
    ):
        await woodshed.train_async(training(engine, tmp_path / "r", config=config))
    refused = set(_slots(database).values())
    with pytest.raises(woodshed.DriftError):
        await woodshed.train_async(training(engine, tmp_path / "r", config=config))

    assert "step 1 was refused" in capsys.readouterr().out
    again = set(_slots(database).values())
    aside = {slot.split("/", 1)[1] for slot in again if slot.startswith("aside-")}
    assert aside == refused
    assert len([slot for slot in again if slot.startswith("0/")]) == 8
    assert RunStore(tmp_path / "r").history() == []


async def test_a_rollout_that_hangs_is_masked_and_the_others_are_trained(engine: EngineClient, tmp_path: Path) -> None:
    started = Counter[str]()

    @woodshed.rollout
    async def sometimes(question: str) -> None:
        started[question] += 1
        is_first = started[question] == 1
        await ask(question)
        if is_first:
            await asyncio.sleep(600)

    config = on_policy(rollout_timeout_s=25)

    run = await woodshed.train_async(training(engine, tmp_path / "r", rollout=sometimes, config=config))

    store = RunStore(run.folder)
    members = [store.trajectory(f"0/scenario-{s}/{k}") for s in range(2) for k in range(4)]
    late = [t for t in members if t is not None and t.status == "timed_out"]
    judged = {
        s.rollout_id
        for g in ("0/scenario-0", "0/scenario-1")
        for s in (store.judgement(g) or woodshed.Judgement()).scores
    }
    assert len(late) == 2 and run.summary.masked_rollouts == 2
    assert not judged & {t.rollout_id for t in late}
    expected = "2 of 8 rollouts failed and are masked (2 × RolloutTimeout); the first: the rollout took longer than"
    assert any(warning.startswith(expected) for warning in run.summary.warnings)


async def test_a_step_in_which_every_rollout_fails_stops_with_the_reason(engine: EngineClient, tmp_path: Path) -> None:
    @woodshed.rollout
    async def broken(question: str) -> None:
        raise KeyError("city")

    with pytest.raises(woodshed.RolloutError, match=r"all 8 rollouts of the step failed.*KeyError"):
        await woodshed.train_async(training(engine, tmp_path / "r", rollout=broken))


async def test_many_seeded_calls_at_once_are_answered_and_repeatable(engine: EngineClient) -> None:
    async with openai.AsyncOpenAI(base_url=engine.openai_base_url, api_key=engine.api_key, max_retries=0) as client:

        async def one(seed: int) -> str | None:
            question = f"{seed} " + "Is the Horn still in stock? " * (seed % 30)
            answer = await client.chat.completions.create(
                model="policy", messages=[{"role": "user", "content": question}], seed=seed, max_completion_tokens=24
            )
            return answer.choices[0].message.content

        first = await asyncio.gather(*(one(seed) for seed in range(128)))
        second = await asyncio.gather(*(one(seed) for seed in range(128)))

    assert first == second
    assert (await engine.health()).models[0].restarts == 0


async def test_a_run_whose_groups_stay_flat_stops_with_the_reason_and_goes_on_when_it_is_asked_to(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def solved(trajectory: woodshed.Trajectory, scenario: str) -> float:
        seen.append(scenario)
        return 1.0

    def go(stop_after: int | None) -> Coroutine[Any, Any, woodshed.Run]:
        config = on_policy(steps=4, stop_after_flat_steps=stop_after)
        return woodshed.train_async(
            training(engine, tmp_path / "r", reward=woodshed.FunctionReward(solved), config=config)
        )

    with pytest.raises(woodshed.NothingToLearn, match=r"2 steps in a row, up to step 2.*solved.*2 steps to go"):
        await go(2)
    stopped = len(RunStore(tmp_path / "r").history())
    run = await go(None)

    assert (stopped, len(run.history)) == (2, 4)
    assert set(seen) == set(QUESTIONS)
    shown = capsys.readouterr().out
    assert "all 2 scored groups are solved" in shown
    assert all(phase in shown for phase in ("starting the engine …", "loading the policy to train:", "4/8 rollouts"))


async def test_a_judge_that_refuses_for_good_ends_the_run_and_the_same_command_goes_on(
    engine: EngineClient, tmp_path: Path
) -> None:
    mended: list[bool] = []
    numbers = count()

    @woodshed.rollout
    async def ask_numbered(question: str) -> None:
        await ask(f"{question} {next(numbers)}")  # attempts that read the same would not be judged

    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        if not mended:
            async with openai.AsyncOpenAI(base_url=engine.openai_base_url, api_key="k", max_retries=0) as client:
                await client.models.retrieve("no-such-model")  # 404, as for a judge's name that does not exist
        raise ValueError("no verdict")

    def go() -> Coroutine[Any, Any, woodshed.Run]:
        return woodshed.train_async(
            training(
                engine, tmp_path / "r", rollout=ask_numbered, reward=woodshed.Ruler(judge), config=on_policy(steps=1)
            )
        )

    with pytest.raises(woodshed.JudgeRefused, match="NotFoundError"):
        await go()
    kept = set(_slots(tmp_path / "r" / "run.sqlite"))
    mended.append(True)
    run = await go()

    assert len(kept) == 8 and kept == set(_slots(tmp_path / "r" / "run.sqlite"))
    assert run.summary.unjudged_groups == 2


async def test_a_conversation_that_outgrows_the_context_is_known_for_what_it_is(
    engine: EngineClient, tmp_path: Path
) -> None:
    turn = iter(range(1000))

    @woodshed.rollout
    async def outgrows(question: str) -> None:
        await ask(question if next(turn) % 2 else question + " again" * 600)

    config = on_policy(advantage=woodshed.AdvantageSettings(overflowed="fail"))
    run = await woodshed.train_async(training(engine, tmp_path / "r", rollout=outgrows, config=config))

    store = RunStore(run.folder)
    members = [store.trajectory(f"0/scenario-{s}/{k}") for s in range(2) for k in range(4)]
    assert Counter(t.error.cause for t in members if t is not None and t.error) == {"overflow": 4}
    assert any("4 of 8 rollouts grew longer than the model's context" in w for w in run.summary.warnings)


async def test_attempts_that_share_a_list_are_warned_of_at_the_first_step(
    engine: EngineClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history: list[Any] = []

    @woodshed.rollout
    async def remembers(question: str) -> None:
        here = woodshed.current_rollout()
        assert here is not None
        history.append({"role": "user", "content": question})
        async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
            answer = await client.chat.completions.create(model="any", messages=history, max_completion_tokens=8)
        history.append({"role": "assistant", "content": answer.choices[0].message.content})

    config = on_policy(max_concurrency=1)
    run = await woodshed.train_async(training(engine, tmp_path / "r", rollout=remembers, config=config))

    (warning,) = [w for w in run.summary.warnings if w.startswith("rollouts share state")]
    assert "no list or dict at module level" in warning
    assert "look at this first: rollouts share state" in capsys.readouterr().out


_KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import woodshed
from test_loop import ask, length, training

marks = Path({marks!r})

def reward(trajectory):
    with (marks / "judged").open("a") as log:
        log.write(trajectory.rollout_id + "\\n")
    if len((marks / "judged").read_text().splitlines()) >= 6 and not (marks / "killed").exists():
        (marks / "killed").touch()
        os.kill(os.getpid(), 9)
    return length(trajectory)

reward.__qualname__ = "reward"

class Reward(woodshed.FunctionReward):
    def __repr__(self):
        return "reward"

class Address:
    url = {url!r}
    api_key = os.environ["WOODSHED_API_KEY"]

print(training(Address, Path({run!r}), reward=Reward(reward)).run().summary.model_dump_json())
"""


async def test_a_run_killed_between_rollouts_and_training_trains_each_rollout_once(
    engine: EngineClient, tmp_path: Path
) -> None:
    code = _KILLED.format(
        tests=str(Path(__file__).parent), marks=str(tmp_path), url=engine.url, run=str(tmp_path / "r")
    )

    def go() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "WOODSHED_API_KEY": engine.api_key}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
        )

    killed = await asyncio.to_thread(go)
    with closing(sqlite3.connect(tmp_path / "r" / "run.sqlite")) as db:
        before = dict(db.execute("SELECT slot, rollout_id FROM trajectories").fetchall())
    again = await asyncio.to_thread(go)

    with closing(sqlite3.connect(tmp_path / "r" / "run.sqlite")) as db:
        after = dict(db.execute("SELECT slot, rollout_id FROM trajectories").fetchall())
        groups = db.execute("SELECT count(*) FROM judgements").fetchone()[0]
    assert killed.returncode == -signal.SIGKILL
    assert again.returncode == 0, again.stderr
    assert before and before.items() <= after.items()  # what was finished is kept, not rolled out again
    assert len(after) == 16 and groups == 4
    summary = json.loads(again.stdout.splitlines()[-1])
    assert summary["steps"] == 2
    judged = Counter((tmp_path / "judged").read_text().split())
    # Only the groups in hand are judged again: both of a step, since a sync reward runs in threads.
    assert max(judged.values()) <= 2 and sum(n == 2 for n in judged.values()) <= 8
