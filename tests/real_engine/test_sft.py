"""A warm-up on the real engine: a run's best rollouts or a file are learnt, and a later run starts from what was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import woodshed
from woodshed.engine import EngineClient
from woodshed.training.run.store import RunStore
from woodshed.training.sft.dataset import Choice, examples_of_run
from woodshed.training.sft.run import SftTraining, sft_async, sft_training
from woodshed.types import ImportedConversation
from woodshed_tiny_world import held_out_scenarios, policy_path, train_scenarios, verify
from woodshed_tiny_world.agents import rollout_of
from woodshed_tiny_world.verifier import Level

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
POLICY = woodshed.Policy(str(policy_path()), max_model_len=512)
FAST = woodshed.OptimizerSettings(learning_rate=4e-3, warmup_steps=2)
TRUTH = {s.id: s for s in train_scenarios()}
ONE_TRAINER = "one-trainer"
"""A warm-up that is refused takes no step, so the next one may go on with its trainer: that saves a start."""
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_stock", "parameters": {"type": "object"}}}
TALK = [
    {"role": "user", "content": "Is the Harp still in stock?"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "get_stock", "arguments": '{"item": "Harp"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c", "content": "4"},
    {"role": "assistant", "content": "Yes, we have 4."},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def source(engine: EngineClient, tmp_path_factory: pytest.TempPathFactory) -> woodshed.Run:
    """One step of a run whose judge tells the truth; its held-out success is measured before it."""
    return await woodshed.train_async(practice(engine, tmp_path_factory.mktemp("run"), POLICY, group_size=8))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warmed(
    engine: EngineClient, source: woodshed.Run, tmp_path_factory: pytest.TempPathFactory
) -> woodshed.SftRun:
    """A warm-up on the best rollouts of the run."""
    return await sft_async(warm(engine, source.folder, tmp_path_factory.mktemp("sft"), held_out=0.2))


def practice(engine: EngineClient, run_dir: Path, policy: woodshed.Policy, *, group_size: int) -> woodshed.Training:
    return woodshed.Training(
        rollout=rollout_of("langgraph"),
        scenarios=train_scenarios()[::8],
        policy=policy,
        reward=woodshed.FunctionReward(how_true),
        engine=woodshed.Engine.connect(engine.url, api_key=engine.api_key),
        config=woodshed.TrainConfig(steps=1, group_size=group_size, scenarios_per_step=20, optimizer=FAST),
        evaluation=woodshed.Evaluation(
            scenarios=held_out_scenarios()[::2],
            measure=lambda trajectory, scenario: verify(trajectory, scenario).success,
        ),
        run_dir=run_dir,
    )


def how_true(trajectory: woodshed.Trajectory) -> float:
    return list(Level).index(verify(trajectory, TRUTH[trajectory.scenario_id]).level) / (len(Level) - 1)


def warm(engine: EngineClient, source: Path, run_dir: Path, **changes: Any) -> SftTraining:
    config = woodshed.SftConfig(**{"epochs": 6, "batch_size": 8, "optimizer": FAST} | changes)
    choice = Choice(min_score=1.0)
    return sft_training(
        source,
        policy=POLICY,
        choice=choice,
        engine=woodshed.Engine.connect(engine.url, api_key=engine.api_key),
        config=config,
        run_dir=run_dir,
    )


def write_lines(path: Path, talks: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return path


async def test_a_runs_best_rollouts_are_learnt_and_the_next_run_starts_from_them(
    engine: EngineClient, source: woodshed.Run, warmed: woodshed.SftRun, tmp_path: Path
) -> None:
    policy = POLICY.model_copy(update={"adapter": warmed.adapter})

    # What was warmed up answers nearly all of them alike; scores that never are let the step be taken.
    apart = woodshed.FunctionReward(lambda trajectory: int(trajectory.rollout_id[:8], 16) / 16**8)
    run = await woodshed.train_async(replace(practice(engine, tmp_path, policy, group_size=2), reward=apart))

    figures, before, after = warmed.summary, source.summary.success_before, run.summary.success_before
    print(f"\nloss {figures.loss_first:.4f} -> {figures.loss_last:.4f}, success {before} -> {after}")
    # Four rollouts of a policy that was sure of them already: which way their loss goes is chance.
    assert figures.held_out > 0
    assert figures.loss_last < figures.loss_first / 2
    assert before is not None and after is not None and after > before + 0.2
    store = RunStore(run.folder)
    sampled = [t for s in train_scenarios()[::8] for k in range(2) if (t := store.trajectory(f"0/{s.id}/{k}"))]
    assert {v for t in sampled for c in t.calls for m in c.tokens.completions for v in m.weight_versions} == {1}
    assert run.history[0]["version"] == 2
    assert run.summary.max_logprob_drift is not None and run.summary.max_logprob_drift < 1e-3


async def test_a_warm_up_that_is_stopped_goes_on_and_learns_what_it_would_have(
    engine: EngineClient, source: woodshed.Run, warmed: woodshed.SftRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = RunStore.save_step

    def stop_after_two(store: RunStore, position: int, *rest: Any) -> None:
        save(store, position, *rest)
        if position == 1:
            raise ConnectionAbortedError("the lid was closed")

    with monkeypatch.context() as patched:
        patched.setattr(RunStore, "save_step", stop_after_two)
        with pytest.raises(ConnectionAbortedError):
            await sft_async(warm(engine, source.folder, tmp_path, held_out=0.2))
    cut = RunStore(tmp_path).history()
    resumed = await sft_async(warm(engine, source.folder, tmp_path, held_out=0.2))
    once_more = await sft_async(warm(engine, source.folder, tmp_path, held_out=0.2))

    assert once_more == resumed
    assert len(cut) == 2 < len(warmed.history)
    assert resumed.history[:2] == tuple(cut)
    assert [r["nll"] for r in resumed.history] == pytest.approx([r["nll"] for r in warmed.history], rel=1e-4)


async def test_rollouts_that_another_model_sampled_under_the_same_name_are_refused(
    engine: EngineClient, source: woodshed.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_of_run(source.folder, Choice(top=2))
    shifted = [
        example.__class__(
            place=example.place,
            scenario_id=example.scenario_id,
            calls=tuple(
                call.model_copy(update={"prompt_ids": tuple((i * 7 + 5) % 1500 for i in call.prompt_ids)})
                for call in example.calls
            ),
        )
        for example in examples
    ]
    monkeypatch.setattr("woodshed.training.sft.run.examples_of_run", lambda *_: shifted)
    monkeypatch.setattr("woodshed.training.run.store.RunStore.run_id", lambda _: ONE_TRAINER)

    with pytest.raises(woodshed.ConfigError, match=r"was not sampled by the .* of today"):
        await sft_async(warm(engine, source.folder, tmp_path / "sft"))


async def test_a_file_is_learnt_turn_by_turn_under_the_models_own_template(
    engine: EngineClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("woodshed.training.run.store.RunStore.run_id", lambda _: ONE_TRAINER)
    monkeypatch.setattr("woodshed.training.sft.trainer.SftTrainer._rollout_id", lambda _, number: f"talk-{number}")
    file = write_lines(tmp_path / "talks.jsonl", [{"messages": TALK, "tools": [TOOL]}] * 5)

    learnt = await sft_async(warm(engine, file, tmp_path / "sft", epochs=6, batch_size=4, held_out=0.2))

    figures = learnt.summary
    assert figures.loss_last < figures.loss_first - 0.5
    assert figures.held_out_before is not None and figures.held_out_after is not None
    assert figures.held_out_before == pytest.approx(figures.loss_first, rel=0.01)  # the same talk, held out
    assert figures.held_out_after < figures.held_out_before - 0.5
    assert (Path(learnt.adapter) / "adapter_model.safetensors").is_file()
    assert learnt.summary.conversations == 4


@pytest.mark.parametrize(
    ("parser", "said"),
    [
        ("hermes", r"line 1: messages\[1\] has tool calls, .* writes nothing of them"),
        ("auto", r"line 1: it offers tools, and no tool parser .* knows no tools, give one that writes them"),
    ],
)
async def test_calls_that_the_template_does_not_write_are_refused(
    needs_engine: None, tmp_path: Path, parser: str, said: str
) -> None:
    silent = tmp_path / "silent.jinja"
    silent.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    policy = POLICY.model_copy(update={"chat_template": str(silent), "tool_call_parser": parser})
    file = write_lines(tmp_path / "talks.jsonl", [{"messages": TALK, "tools": [TOOL]}])
    training = SftTraining(source=file, policy=policy, run_dir=tmp_path / "sft")

    with pytest.raises(woodshed.ConfigError, match=said):
        await sft_async(training)


async def test_what_the_template_cannot_split_is_refused_with_its_line(engine: EngineClient, tmp_path: Path) -> None:
    answer_first = [{"role": "assistant", "content": "Hello."}]
    image = [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "A cat."}]
    file = write_lines(tmp_path / "talks.jsonl", [{"messages": m} for m in (TALK, answer_first, image)])

    with pytest.raises(woodshed.ConfigError, match=r"(?s)2 of 3 .*line 2: messages\[0\].*\nline 3: .*image_url"):
        await sft_async(warm(engine, file, tmp_path / "sft"))


async def test_an_assistant_message_of_weight_0_is_context_and_never_trained(engine: EngineClient) -> None:
    async def tokens(name: str, *weights: int) -> int:
        given = iter(weights)
        messages = tuple({**m, "weight": next(given)} if m["role"] == "assistant" else m for m in TALK)
        imported = ImportedConversation(rollout_id=name, policy="policy", messages=messages, tools=(TOOL,))
        return (await engine.import_session(imported)).tokens

    first, second, both = await tokens("first", 1, 0), await tokens("second", 0, 1), await tokens("both", 1, 1)

    assert min(first, second) > 0
    assert first + second == both
