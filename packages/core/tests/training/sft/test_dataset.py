"""What a warm-up learns from: chosen by score from a run, or read from a file; what cannot be learnt is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.training.run.store import RunStore
from woodshed.training.sft.config import SftConfig
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.training.sft.dataset import UNKNOWN_VERSION, Choice, examples_of_run
from woodshed.training.sft.run import held_out_examples, sft_training
from woodshed.types import Failure, Judgement, Score, Trajectory

GOOD = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}


def one(rollout_id: str, token: int, scenario_id: str = "s", **changes: object) -> Trajectory:
    made = trajectory(rollout_id, call(said(f"answer {token}"), call_id=rollout_id, token_ids=(token, 2)))
    return made.model_copy(update={"scenario_id": scenario_id, **changes})


def run_folder(folder: Path, groups: dict[str, list[tuple[Trajectory, float]]], model: str = "m/m") -> Path:
    with closing(RunStore(folder)) as store:
        store.claim({"policy": {"model": model}, "scenarios": ["s"]})
        for group_id, members in groups.items():
            for number, (member, _) in enumerate(members):
                store.save_trajectory(f"{group_id}/{number}", member)
            scores = tuple(Score(rollout_id=t.rollout_id, value=v) for t, v in members)
            store.save_judgement(group_id, Judgement(scores=scores))
    return folder


def places(folder: Path, **choice: float | int) -> list[str]:
    return [example.place for example in examples_of_run(folder, Choice(**choice))]  # type: ignore[arg-type]


def test_the_best_of_each_group_is_learnt_unless_a_score_is_named(tmp_path: Path) -> None:
    folder = run_folder(
        tmp_path, {"0/a": [(one("r1", 1), 0.9), (one("r2", 3), 0.7), (one("r3", 4), 0.1)], "0/b": [(one("r4", 5), 0.6)]}
    )

    assert places(folder) == ["rollout r1"]
    assert places(folder, min_score=0.5) == ["rollout r1", "rollout r2", "rollout r4"]
    assert places(folder, top=2) == ["rollout r1", "rollout r2"]
    assert places(folder, top=2, min_score=0.8) == ["rollout r1"]


def test_a_group_whose_scores_are_equal_has_no_best(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, {"0/a": [(one("r1", 1), 0.5), (one("r2", 3), 0.5)]})

    with pytest.raises(woodshed.ConfigError, match=r"2 from 0\.50 to 0\.50 .*1 of 1 groups have equal scores"):
        places(folder, top=1)


def test_where_no_rollout_is_good_enough_the_scores_there_are_are_said(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, {"0/a": [(one("r1", 1), 0.3), (one("r2", 3), 0.1)]})

    with pytest.raises(woodshed.ConfigError, match=r"2 from 0\.10 to 0\.30 \(1 in 0\.0-0\.2, 1 in 0\.2-0\.4\)"):
        places(folder, min_score=0.8)


def test_failed_rollouts_and_answers_thrown_away_or_cut_are_not_learnt(tmp_path: Path) -> None:
    failed = trajectory("r1", call(said("x")), failed=Failure(kind="KeyError", message="k"))
    thrown = trajectory("r2", call(said("x"), superseded=True), call(said("y"), call_id="kept", token_ids=(9, 2)))
    cut = trajectory("r3", call(said("x"), finish_reason="length"))
    folder = run_folder(tmp_path, {"0/a": [(failed, 1.0), (thrown, 1.0), (cut, 1.0), (one("r4", 5), 0.0)]})

    (example,) = examples_of_run(folder, Choice(min_score=0.5))

    assert [c.completions[0].token_ids for c in example.calls] == [(9, 2)]


def test_what_reads_the_same_is_learnt_once_a_scenario(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, {"0/a": [(one("r1", 1), 1.0), (one("r2", 1), 1.0), (one("r3", 1, "other"), 1.0)]})

    assert len(places(folder, min_score=0.5)) == 2


def test_tokens_that_were_not_sampled_plainly_carry_no_version(tmp_path: Path) -> None:
    warm = call(said("x"))
    tokens = warm.tokens.model_copy(update={"sampling": {"temperature": 0.5}})
    cool = trajectory("r1", warm.model_copy(update={"tokens": tokens}))
    folder = run_folder(tmp_path, {"0/a": [(cool, 1.0), (one("r2", 1), 0.9)]})

    versions = [
        c.completions[0].weight_versions for m in examples_of_run(folder, Choice(min_score=0.5)) for c in m.calls
    ]

    assert versions == [(UNKNOWN_VERSION,) * 2, (0, 0)]


def test_a_run_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(woodshed.ConfigError, match="no scores"):
        examples_of_run(run_folder(tmp_path, {}), Choice())


def test_groups_that_were_put_aside_are_not_the_runs(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, {"0/a": [(one("r1", 1), 1.0), (one("r2", 3), 0.0)]})
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("UPDATE judgements SET group_id = 'aside-2/0/a'")
    db.close()

    with pytest.raises(woodshed.ConfigError, match="no scores"):
        examples_of_run(folder, Choice())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(woodshed.ConfigError, match="holds no run of `woodshed train`"):
        examples_of_run(tmp_path, Choice())


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    run_folder(tmp_path, {})

    with pytest.raises(woodshed.ConfigError, match=r"trained 'm/m', and 'other/model' is asked for"):
        sft_training(tmp_path, policy="other/model")


def test_a_file_needs_a_model_and_a_run_brings_its_own(tmp_path: Path) -> None:
    with pytest.raises(woodshed.ConfigError, match="names no model"):
        sft_training(tmp_path / "talks.jsonl", policy=None)
    assert sft_training(run_folder(tmp_path, {}), policy=None).policy.model == "m/m"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"talks\.jsonl, line 2 is not JSON"),
        ("[1]", "line 2 has no list of messages"),
        ('{"messages": []}', "line 2 has no list of messages"),
        ('{"messages": [{"role": "user", "content": "Hi."}]}', "line 2 has no assistant message"),
        ('{"messages": [{"role": "robot"}]}', r"line 2: messages\[0\].role is 'robot'; expected one of"),
        ('{"messages": ["Hi."]}', r"line 2: messages\[0\] is 'Hi.'"),
        ('{"messages": [{"role": "user"}], "tools": {}, "x": 1}', "line 2 has no assistant message"),
        ('{"messages": [{"role": "user"}], "tools": "t"}', "line 2: 'tools' is 't'"),
    ],
)
def test_a_line_that_cannot_be_learnt_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{line}\n")

    with pytest.raises(woodshed.ConfigError, match=said):
        examples_of_file(file)


def test_a_file_is_a_conversation_a_line_and_a_separator_inside_a_text_is_no_line(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    odd = {"messages": [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c"}], "id": 7}
    file.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(odd, ensure_ascii=False)}\n")

    assert [example.place for example in examples_of_file(file)] == ["line 1", "line 3"]


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")

    with pytest.raises(woodshed.ConfigError, match=r"empty\.jsonl' is empty"):
        examples_of_file(tmp_path / "empty.jsonl")
    with pytest.raises(woodshed.ConfigError, match=r"gone\.jsonl' is not there"):
        examples_of_file(tmp_path / "gone.jsonl")


def test_whole_scenarios_areheld_out_examples(tmp_path: Path) -> None:
    members = [(one(f"r{k}", k, f"s{k // 2}"), 1.0) for k in range(8)]
    examples = examples_of_run(run_folder(tmp_path, {"0/a": members}), Choice(min_score=0))

    held = held_out_examples(examples, SftConfig(held_out=0.5))

    scenarios = [
        {example.scenario_id for k, example in enumerate(examples) if (k in held) is side} for side in (True, False)
    ]
    assert [len(s) for s in scenarios] == [2, 2] and not scenarios[0] & scenarios[1]
    with pytest.raises(woodshed.ConfigError, match=r"held_out is 0\.1 of 4 scenarios, which is 0"):
        held_out_examples(examples, SftConfig(held_out=0.1))
