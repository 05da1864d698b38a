"""What AGENTS.md and SKILL.md tell a coding assistant is true: commands parse, paths exist, its snippets run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

import woodshed
from woodshed.cli.app import app
from woodshed.cli.files import load_training
from woodshed.training.report.summary import Summary

ROOT = Path(__file__).parents[1]
AGENTS, SKILL = ROOT / "AGENTS.md", ROOT / "skills" / "woodshed" / "SKILL.md"
FRAMEWORKS = ("langgraph", "crewai", "adk", "openai")
"""In the order of the snippets."""
ELSEWHERE = ("git clone", "pip install")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    in_blocks = [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return in_blocks + re.findall(r"`((?:woodshed|make) [a-z][^`]*)`", prose)


def check_woodshed(words: list[str]) -> None:
    """Parse a command with the real command line, and run nothing."""
    command, name = typer.main.get_command(app), "woodshed"
    while hasattr(command, "commands") and words:
        name, *words = words
        assert name in command.commands, f"woodshed has no command {name!r}"
        command = command.commands[name]
    if words:  # without any, prose speaks of the command itself
        command.make_context(name, words)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words and set(words) <= {*targets, "help"}, words


def check_python(words: list[str]) -> None:
    assert words[:3] == ["-m", "pytest", "-q"]
    assert all((ROOT / path).exists() for path in words[3:]), words


@pytest.mark.parametrize(
    ("page", "line"),
    [(page, line) for page in (AGENTS, SKILL) for line in commands(page)],
    ids=lambda given: getattr(given, "name", given),
)
def test_every_command_exists_and_takes_these_arguments(page: Path, line: str) -> None:
    first, *words = shlex.split(line, comments=True)
    if line.startswith(ELSEWHERE):
        paths = [word.removeprefix("./woodshed/") for word in words if word.startswith("./woodshed/")]
        assert all((ROOT / path / "pyproject.toml").is_file() for path in paths)
    else:
        check = {"woodshed": check_woodshed, "make": check_make, ".venv/bin/python": check_python}
        (check | {".engine/bin/python": check_python})[first](words)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("woodshed trian x.py", "has no command 'trian'"),
        ("woodshed train --quiet", "Missing parameter: file"),
        ("woodshed train x.py --no-such", "(?i)no such option"),
        ("woodshed export runs/a", "Missing parameter: to"),
    ],
)
def test_a_command_that_could_not_be_given_is_found(wrong: str, why: str) -> None:
    with pytest.raises(Exception, match=why):
        check_woodshed(shlex.split(wrong)[1:])


@pytest.mark.parametrize("page", [AGENTS, SKILL], ids=lambda page: page.name)
def test_every_path_and_link_exists(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    paths = re.findall(r"`((?:packages|tests|examples|docs|bench|skills)(?:/[\w./-]+)?)`", text)

    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert page is SKILL or (links and paths)


def test_the_skill_says_who_it_is_for_in_its_first_lines() -> None:
    _, front, body = SKILL.read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())

    assert fields["name"] == SKILL.parent.name == "woodshed"
    assert set(fields) == {"name", "description"} and len(fields["description"]) <= 1024
    assert all(word in fields["description"] for word in ("LangGraph", "CrewAI", "ADK", "OpenAI", "Use when"))
    assert len(body.splitlines()) < 500


def test_every_name_of_the_skill_exists() -> None:
    text = SKILL.read_text()
    table = text.split("`summary.json` has its figures")[1].split("`history.jsonl`")[0]
    keys = {key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row)}
    names = {part for used in re.findall(r"\bwoodshed\.([A-Z]\w+)", text) for part in [used]}

    assert len(keys) > 10 and keys <= Summary.model_fields.keys()
    assert len(names) > 8 and names <= set(woodshed.__all__)
    assert "extra_scenarios" in woodshed.TrainConfig.model_fields
    assert "rollout_timeout_s" in woodshed.TrainConfig.model_fields
    assert "learning_rate" in woodshed.OptimizerSettings.model_fields


@pytest.mark.filterwarnings("ignore")  # CrewAI's own, of its imports and of its deprecated fields
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_wrapped_agent_of_the_skill_is_recorded_and_makes_a_training(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *agents, rest, _, trial = blocks(SKILL, "python")
    agent = agents[FRAMEWORKS.index(framework)]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for setting in ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED"):
        monkeypatch.setenv(setting, "true")
    (tmp_path / "practise.py").write_text(f"{agent}\n\n{rest}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "practise", raising=False)

    exec(trial, {})
    said = capsys.readouterr().out.splitlines()
    training = load_training(tmp_path / "practise.py")

    assert len(agents) == len(FRAMEWORKS) and framework in agent
    assert said[-1:] == ["There are 4. 1 model calls recorded"]
    assert isinstance(training, woodshed.Training) and isinstance(training.reward, woodshed.Ruler)
    recorded = woodshed.Trajectory(rollout_id="r", scenario_id="s", output="There are 4.")
    assert training.evaluation is not None
    assert training.evaluation.measure(recorded, training.evaluation.scenarios[0]) == 1.0


def test_the_rewards_of_the_skill_are_rewards() -> None:
    *_, rewards, _ = blocks(SKILL, "python")
    made: dict[str, object] = {}
    exec(rewards, made)

    assert all(hasattr(made[name], "judge_group") for name in ("by_function", "by_local_judge", "by_both"))


def test_the_conversations_of_the_skill_are_lines_that_sft_reads(tmp_path: Path) -> None:
    assert '{"messages": [...], "tools": [...]}' in SKILL.read_text()
    from woodshed.training.sft.conversation_file import examples_of_file

    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "4"}]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": turn, "tools": []}))
    assert len(examples_of_file(tmp_path / "talks.jsonl")) == 1
