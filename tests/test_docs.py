"""What the documents show is what runs: every Python block compiles, the examples and the README's own run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import woodshed
from woodshed.cli.files import load_training
from woodshed.testing import ScriptedEngine, say, scripted_rollout
from woodshed_tiny_world import pretrained

ROOT = Path(__file__).parents[1]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_python_block_compiles(page: Path) -> None:
    for number, block in enumerate(blocks(page)):
        compile(block, f"{page.name}#{number}", "exec", flags=0x2000)  # top-level await is allowed


@pytest.mark.parametrize("page", sorted(ROOT.glob("packages/*/README.md")), ids=lambda p: p.parent.name)
def test_a_packages_readme_has_no_link_that_is_broken_on_its_page_on_pypi(page: Path) -> None:
    """PyPI shows the file alone: a link into the repository leads nowhere there."""
    links = re.findall(r"\]\(\s*([^)\s]+)", page.read_text())

    assert [link for link in links if not link.startswith(("https://", "http://", "#", "mailto:"))] == []


async def test_the_readmes_program_is_a_training_whose_rollouts_and_reward_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "fetch", lambda: tmp_path / "model.gguf")
    (block,) = (b for b in blocks(ROOT / "README.md") if "Training(" in b)
    file = tmp_path / "practise.py"
    file.write_text(block)

    training = load_training(file)
    with ScriptedEngine(lambda request: say("It is Paris.")) as engine:
        with scripted_rollout(engine):
            said = await training.rollout("France")
    attempts = [
        woodshed.Trajectory(rollout_id=text, scenario_id="France", output=text) for text in (said, "Paris", "Rome", "")
    ]
    reward = training.reward.bound(base_url="", api_key="", scenarios={"France": "France"})
    judgement = await reward.judge_group(attempts)

    assert said == "It is Paris."
    assert {s.rollout_id: s.value for s in judgement.scores} == {said: 1 / 3, "Paris": 1, "Rome": 0, "": 0}
    assert len([line for line in block.splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize(
    ("example", "said"),
    [("01_record_one_rollout.py", "tool stock: 4 left"), ("02_judge_a_group.py", "1.0  says 42")],
)
def test_a_small_example_runs(example: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.filterwarnings("ignore")  # CrewAI's own, of its imports and of its deprecated fields
@pytest.mark.parametrize(
    "example",
    ["03_train_on_cpu.py", "04_plain_openai_client.py", "05_train_a_crew.py", "06_train_an_adk_agent.py"],
)
def test_a_training_example_can_be_loaded(example: str) -> None:
    assert isinstance(load_training(ROOT / "examples" / example), woodshed.Training)


@pytest.mark.parametrize("place", [0, 1], ids=["sync", "async and streamed"])
async def test_a_plain_client_is_recorded_as_the_page_shows(place: int) -> None:
    shown: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "any_client.md")[place], shown)

    with ScriptedEngine(lambda request: say("It is 42.")) as engine:
        with scripted_rollout(engine) as rollout:
            said = shown["answer"]("What is 6 × 7?")
            said = await said if shown["answer"].is_async else said
        trajectory = engine.trajectory(rollout)

    assert said == "It is 42."
    (call,) = trajectory.calls
    assert [m.content for m in call.tokens.messages] == ["What is 6 × 7?"]
    assert call.tokens.completions[0].message.content == "It is 42."
    assert len(call.tokens.completions[0].token_ids) == len(call.tokens.completions[0].logprobs) > 0


def test_a_program_of_another_process_is_recorded_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = tmp_path / "my-agent"
    agent.write_text(
        f"#!{sys.executable}\nimport openai, sys\n"
        "said = openai.OpenAI().chat.completions.create("
        "model='m', messages=[{'role': 'user', 'content': sys.argv[1]}])\n"
        "print(said.choices[0].message.content)\n"
    )
    agent.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    shown: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "any_client.md")[2], shown)

    with ScriptedEngine(lambda request: say("It is 42.")) as engine:
        with scripted_rollout(engine) as rollout:
            said = shown["answer"]("What is 6 × 7?")
        trajectory = engine.trajectory(rollout)

    assert said == "It is 42.\n"
    assert len(trajectory.calls) == 1


def test_a_file_without_a_training_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")

    with pytest.raises(woodshed.ConfigError, match=r"empty\.py' defines 0 trainings \[\]; expected exactly one"):
        load_training(tmp_path / "empty.py")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(woodshed.ConfigError, match=r"gone\.py' is not a file"):
        load_training(tmp_path / "gone.py")
