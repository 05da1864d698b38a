"""The command line says what is wrong in one line, without a traceback."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.cli.engines import parse_models
from woodshed.errors import ConfigError


def woodshed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", "from woodshed.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_shows_every_verb() -> None:
    shown = woodshed("--help").stdout

    assert all(verb in shown for verb in ("train", "sft", "doctor", "demo", "engine"))


def test_a_missing_training_file_is_one_line_and_a_failure(tmp_path: Path) -> None:
    done = woodshed("train", str(tmp_path / "gone.py"))

    assert done.returncode == 1
    assert "ConfigError" in done.stderr and "gone.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_group_of_one_is_refused_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    file.write_text(
        "import woodshed\n"
        "training = woodshed.Training(rollout=woodshed.rollout(lambda s: None), scenarios=['a'],\n"
        "    policy=woodshed.Policy('m/m'), reward=woodshed.FunctionReward(lambda t: 1.0))\n"
    )

    done = woodshed("train", str(file), "--group-size", "1")

    assert done.returncode == 1
    assert "group_size is 1; expected 2 or more" in done.stderr


def test_a_missing_engine_environment_names_the_command_that_makes_it(tmp_path: Path) -> None:
    file = tmp_path / "t.py"
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    file.write_text(
        "import woodshed\n"
        "training = woodshed.Training(rollout=woodshed.rollout(lambda s: None), scenarios=['a'], run_dir='r',\n"
        f"    policy=woodshed.Policy({str(model)!r}), reward=woodshed.FunctionReward(lambda t: 1.0))\n"
    )

    done = woodshed(
        "train", str(file), "--run-dir", str(tmp_path / "r"), WOODSHED_ENGINE_HOME=str(tmp_path / "nowhere")
    )

    assert done.returncode == 1
    assert "EngineMissing" in done.stderr and "woodshed engine install" in done.stderr


@pytest.mark.parametrize(("flags", "advice"), [((), "command again to"), (("--fresh",), "command without --fresh to")])
def test_ctrl_c_says_how_to_resume_what_was_just_started(tmp_path: Path, flags: tuple[str, ...], advice: str) -> None:
    file = tmp_path / "t.py"
    file.write_text(
        "import os, signal, time\n"
        # A job in the background of a shell ignores Ctrl-C, and so do its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )

    done = woodshed("train", str(file), *flags)

    assert done.returncode == 130
    assert f"stopped; run the same {advice} resume" in done.stderr


def test_an_unknown_flag_is_a_usage_error() -> None:
    assert woodshed("demo", "--sed", "1").returncode == 2


def test_a_model_argument_without_a_path_is_refused(tmp_path: Path) -> None:
    done = woodshed("engine", "start", "--model", "policy", "--home", str(tmp_path))

    assert done.returncode == 1
    assert "--model 'policy' cannot be read; expected NAME=PATH" in done.stderr


def test_an_open_door_without_a_key_is_refused(tmp_path: Path) -> None:
    done = woodshed("engine", "start", "--model", "policy=a/b", "--host", "0.0.0.0", "--home", str(tmp_path))

    assert done.returncode == 1
    assert "no api_key is set" in done.stderr


def test_a_warm_ups_help_teaches_with_lines_to_type() -> None:
    shown = woodshed("sft", "--help", COLUMNS="120").stdout

    assert all(
        line in shown
        for line in ("woodshed sft runs/support --min-score 0.8 --top 4", '{"messages": [...]', "adapter=")
    )


def test_what_cannot_be_learnt_is_one_line_and_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text('{"messages": [{"role": "robot", "content": "Hi."}]}\n')

    done = woodshed("sft", str(file), "--model", "m/m", "--run-dir", str(tmp_path / "sft"))

    assert done.returncode == 1
    assert "ConfigError: talks.jsonl, line 1: messages[0].role is 'robot'; expected one of" in done.stderr
    assert not (tmp_path / "sft").exists()  # refused before any work


def test_a_missing_engine_environment_is_a_check_that_fails(tmp_path: Path) -> None:
    done = woodshed("doctor", WOODSHED_ENGINE_HOME=str(tmp_path / "nowhere"))

    assert done.returncode == 1
    assert "fail  machine: EngineMissing" in done.stdout and "→ run `woodshed engine install`" in done.stdout


def test_the_doctors_findings_are_json_where_asked_for(tmp_path: Path) -> None:
    keyless = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", "WOODSHED_ENGINE_HOME": str(tmp_path)}

    done = woodshed("doctor", "--judge", "gpt-5-mini", "--json", **keyless)

    printed = json.loads(done.stdout)
    assert done.returncode == 1 and printed["failed"] == 2
    assert [(f["check"], f["status"]) for f in printed["findings"]] == [("machine", "fail"), ("judge", "fail")]
    assert "OPENAI_API_KEY is not set" in printed["findings"][1]["found"]


def test_the_start_of_an_engine_teaches_every_setting_that_a_run_is_compared_by() -> None:
    shown = woodshed("engine", "start", "--help", COLUMNS="160").stdout
    flags = (
        "--max-model-len", "--tool-call-parser", "--reasoning-parser", "--chat-template", "--dtype", "--max-lora-rank",
        "--lora-slots", "--api-key", "--allow-host",
    )  # fmt: skip

    assert [flag for flag in flags if flag not in shown] == []
    assert "--tool-call-parser llama3_json" in shown and "Engine.connect(" in shown


def test_a_setting_of_an_engine_is_for_one_model_or_for_all() -> None:
    settings = {"max_model_len": ["512", "judge=64"], "tool_call_parser": ["judge=none"], "max_lora_rank": ["32"]}
    models = parse_models(["policy=a/b", "judge=c/d"], settings)

    assert (models["policy"].max_model_len, models["judge"].max_model_len) == (512, 64)
    assert (models["policy"].tool_call_parser, models["judge"].tool_call_parser) == ("auto", None)
    assert models["policy"].max_lora_rank == models["judge"].max_lora_rank == 32
    with pytest.raises(ConfigError, match=r"model 'policy' cannot be served so: --dtype: .*found 'int3'"):
        parse_models(["policy=a/b"], {"dtype": ["int3"]})


def test_an_engine_says_what_it_does_before_it_has_started(tmp_path: Path) -> None:
    """Also where nothing will come of it: here the engine's own interpreter does not know woodshed."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    done = woodshed(
        "engine", "start", "--model", f"policy={tmp_path}/model", "--home", str(tmp_path / "home"),
        WOODSHED_ENGINE_PYTHON=str(fake),
    )  # fmt: skip
    key = tmp_path / "home/api_key"

    assert f"policy: {tmp_path}/model, trainable" in done.stdout
    assert "starting the engine's process" in done.stdout
    assert "ended with exit status 3" in done.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_text().strip()) > 30
