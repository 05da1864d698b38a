"""Promises of an export that needs no torch: what is in the folder, and what is refused before anything is written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from builders import call, said, trajectory

import woodshed
from woodshed.export import export_run
from woodshed.training.run.folder import run_folder
from woodshed.training.run.store import RunStore
from woodshed.types import StepReport

ROW = {"rollouts": 8, "masked": 1, "trained": True}
TENSOR = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def safetensors(tail: bytes = b"\0" * 8) -> bytes:
    head = json.dumps(TENSOR).encode()
    return struct.pack("<Q", len(head)) + head + tail


def lora(folder: Path, base: Path) -> None:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(safetensors())
    (folder / "README.md").write_text(f"base_model: {base}")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "machine" / "Base-1B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: Apache-2.0\n---\nA model.")
    return folder


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    """Make what a finished run of three steps leaves; the second version is its best."""
    folder = tmp_path / "machine" / "runs" / "support"
    store = RunStore(folder)
    store.save_fact("start_version", 0)
    for step in range(3):
        row = {**ROW, "step": step, "version": step + 1}
        store.save_step(step, StepReport(step_id=f"s{step}", version=step + 1, trained=True), row)
    for name, success in (("before", 0.25), ("after_step_2", 0.75), ("after", 0.5)):
        store.save_fact(f"success_{name}", success)
        store.save_fact(f"interval_{name}", [success - 0.125, success + 0.125])
        store.save_fact(f"rollouts_{name}", 16)
    store.save_trajectory("0/a/0", trajectory("a", call(said("4"))))
    for version in (2, 3):
        lora(folder / f"engine/policies/policy/{store.run_id()}/checkpoints/{version:05d}/adapter", base)
    store.save_fact("finished", True)
    policy = woodshed.Policy(str(base), max_model_len=4096, tool_call_parser="hermes")
    store.claim(
        {"policy": policy.model_dump(mode="json"), "scenarios": {"ids": ["a", "b"]},
         "config": {"loss": {"name": "dapo"}}, "reward": "r"},
        rollout={"name": "answer", "file": str(tmp_path / "machine/practise.py")},
    )  # fmt: skip
    store.close()
    (folder / "summary.json").write_text(json.dumps({"judge": str(tmp_path / "machine/my-judge")}))
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Return each file's hash, but not those that SQLite makes while somebody reads."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_lora_is_a_folder_of_pefts_with_a_card_and_without_a_path(run: Path, base: Path, tmp_path: Path) -> None:
    before = contents(run)
    done = export_run(run, to=tmp_path / "new" / "lora")

    assert sorted(path.name for path in done.folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert json.loads((done.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "Base-1B"
    assert (done.version, done.step, done.base) == (3, 3, "Base-1B")
    for path in done.folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    assert contents(run) == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lora"]


def test_the_card_says_what_it_is_how_it_was_trained_how_well_it_does_and_how_to_serve_it(
    run: Path, tmp_path: Path
) -> None:
    card = (export_run(run, to=tmp_path / "lora", best=True).folder / "README.md").read_text()

    for line in (
        "license: apache-2.0",
        "library_name: peft",
        "- Base model: Base-1B (licence: apache-2.0)",
        "- Task: `answer`; 2 scenarios, 16 rollouts (2 masked) in 2 steps",
        "- Reward: my-judge",
        "- Method: dapo, sampled at temperature 1; LoRA of rank 16, alpha 32, on q_proj",
        "| 0 | 0.250 [0.125, 0.375] | 16 |",
        "| 2 (this one) | 0.750 [0.625, 0.875] | 16 |",
        "| 3 | 0.500 [0.375, 0.625] | 16 |",
        "vllm serve Base-1B --enable-lora --max-lora-rank 16 --lora-modules policy=. --max-model-len 4096 "
        "--enable-auto-tool-choice --tool-call-parser hermes",
        'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("Base-1B"), ".")',
    ):
        assert line in card
    compile(card.partition("```python\n")[2].partition("```")[0], "card", "exec")


def test_the_best_version_is_exported_and_is_refused_where_none_is_known(run: Path, tmp_path: Path) -> None:
    done = export_run(run, to=tmp_path / "best", best=True)
    store = RunStore(run)
    for name in ("before", "after_step_2", "after"):
        store._put("DELETE FROM facts WHERE name = ?", f"success_{name}")
    store.close()
    with pytest.raises(woodshed.ConfigError, match="has no evaluation, so no version is known to be the best"):
        export_run(run, to=tmp_path / "again", best=True)

    assert (done.version, done.step) == (2, 2)


def test_the_template_that_the_policy_was_trained_with_goes_along(run: Path, tmp_path: Path) -> None:
    template = tmp_path / "machine" / "mine.jinja"
    template.write_text("{{ mine }}")
    config = json.loads((run / "config.json").read_text())
    config["policy"]["chat_template"] = str(template)
    (run / "config.json").write_text(json.dumps(config))
    done = export_run(run, to=tmp_path / "lora")
    template.unlink()
    with pytest.raises(woodshed.ConfigError, match=r"chat template .*mine\.jinja', which cannot be read"):
        export_run(run, to=tmp_path / "again")

    assert (done.folder / "chat_template.jinja").read_text() == "{{ mine }}"
    assert "--chat-template chat_template.jinja" in (done.folder / "README.md").read_text()


def no_run(run: Path) -> None:
    shutil.rmtree(run)


def half_a_run(run: Path) -> None:
    (run / "run.sqlite").write_bytes(b"")


def torn_settings(run: Path) -> None:
    (run / "config.json").write_text('{"policy": {"mod')


def torn_database(run: Path) -> None:
    (run / "run.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def newer(run: Path) -> None:
    store = RunStore(run)
    store._db.execute("PRAGMA user_version=99")
    store.close()


def no_steps(run: Path) -> None:
    store = RunStore(run)
    store._db.execute("DELETE FROM steps")
    store.close()


def flat_steps(run: Path) -> None:
    store = RunStore(run)
    store._db.execute("DELETE FROM steps")
    store.save_step(0, StepReport(step_id="s0", version=0, trained=False), {**ROW, "version": 0, "trained": False})
    store.close()


def lora_gone(run: Path) -> None:
    shutil.rmtree(run / "engine")


def _weights(run: Path) -> Path:
    (found,) = run.glob("engine/policies/policy/*/checkpoints/00003/adapter/adapter_model.safetensors")
    return found


def lora_cut(run: Path) -> None:
    _weights(run).write_bytes(safetensors()[:-3])


def lora_changed(run: Path) -> None:
    hashes = {"adapter/adapter_model.safetensors": hashlib.sha256(safetensors()).hexdigest()}
    (_weights(run).parents[1] / "position.json").write_text(json.dumps({"hashes": hashes}))
    _weights(run).write_bytes(safetensors(b"\1" * 8))


@pytest.mark.parametrize(
    ("damage", "said_"),
    [
        (no_run, "holds no run of woodshed: expected the folder of a `woodshed train`"),
        (half_a_run, "is only half made: it lacks facts, judgements, steps, trajectories"),
        (torn_settings, "cannot be read as a run's settings"),
        (torn_database, r"cannot be read as a run's database|is damaged"),
        (newer, r"was written by a newer woodshed \(format 99"),
        (no_steps, "has trained nothing: 0 steps were taken"),
        (flat_steps, "has trained nothing: 1 steps were taken, and none changed the weights"),
        (lora_gone, r"LoRA of version 3 is not in .*`--engine URL"),
        (lora_cut, r"is damaged: adapter_model.safetensors has \d+ bytes, expected"),
        (lora_changed, "is damaged: adapter_model.safetensors does not hold the bytes that were written"),
    ],
)
def test_a_run_that_cannot_be_exported_says_why_and_leaves_nothing(
    run: Path, tmp_path: Path, damage: Any, said_: str
) -> None:
    damage(run)
    with pytest.raises(woodshed.WoodshedError, match=said_):
        export_run(run, to=tmp_path / "new" / "lora")

    assert not (tmp_path / "new" / "lora").exists()
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True


def test_a_run_that_is_being_trained_is_not_read(run: Path, tmp_path: Path) -> None:
    with run_folder(run, name="support", fresh=False):
        # This process holds the lock by another descriptor, as another process does.
        with pytest.raises(woodshed.ConfigError, match=r"process \d+ is at work on the run in"):
            export_run(run, to=tmp_path / "lora")
    export_run(run, to=tmp_path / "lora")
    with (run / "run.lock").open("a") as lock:  # an export holds no lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("asked", "said_"),
    [
        ({"gguf": "Q4_K_M"}, r"'Q4_K_M' isn't written here; choose one of F32, F16, BF16, Q8_0\. .*llama-quantize"),
        ({"merged": "int8"}, "cannot be stored as 'int8'"),
        ({"merged": "auto", "gguf": "F16"}, "one after the other, to two folders"),
    ],
)
def test_a_form_that_is_not_written_is_refused_by_name(
    run: Path, tmp_path: Path, asked: dict[str, Any], said_: str
) -> None:
    with pytest.raises(woodshed.ConfigError, match=said_):
        export_run(run, to=tmp_path / "lora", **asked)


def test_a_base_model_that_is_gone_stops_merging_and_not_the_lora(run: Path, base: Path, tmp_path: Path) -> None:
    shutil.rmtree(base)
    with pytest.raises(woodshed.ConfigError, match=r"base model .*Base-1B' is not here .*`--base`"):
        export_run(run, to=tmp_path / "merged", merged="auto")
    done = export_run(run, to=tmp_path / "lora")

    assert "licence: not known" in (done.folder / "README.md").read_text()


def test_nothing_is_written_over(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(woodshed.ConfigError, match=r"is not empty \(there is 'mine\.txt'\)"):
        export_run(run, to=tmp_path / "full")
    with pytest.raises(woodshed.ConfigError, match="is a file"):
        export_run(run, to=tmp_path / "file")
    with pytest.raises(woodshed.StorageError, match="file/lora' cannot be written: "):
        export_run(run, to=tmp_path / "file" / "lora")

    assert export_run(run, to=tmp_path / "empty").folder.is_dir()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_an_sft_is_exported_too(run: Path, base: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({"policy": config["policy"], "sft": {}, "source": "talks.jsonl"}))
    store = RunStore(run)
    store._db.execute("UPDATE steps SET row = json_remove(row, '$.trained', '$.rollouts')")
    store.close()
    lora(run / "adapter", base)
    done = export_run(run, to=tmp_path / "lora")

    assert "- Method: supervised fine-tuning" in (done.folder / "README.md").read_text()
