"""examples/email_search: its archive is one, its questions can be answered, and its rules know right from wrong."""

from __future__ import annotations

import asyncio
import inspect
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import woodshed
from woodshed.testing import Reply, ScriptedEngine, call_tool, call_tools, in_order, say, scripted_rollout
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.types import ToolRequest
from woodshed_tiny_world import policy_path

EXAMPLE = Path(__file__).parents[1] / "examples" / "email_search"
FRAMEWORKS = ("langgraph", "crewai", "adk")


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    """The modules of the example, which are scripts beside each other."""
    sys.path.insert(0, str(EXAMPLE))
    names = [file.stem for file in EXAMPLE.glob("*.py")]
    shadowed = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield SimpleNamespace(**{name: __import__(name) for name in names})
    for name in names:
        del sys.modules[name]
    sys.modules.update(shadowed)
    sys.path.remove(str(EXAMPLE))


def attempt(rollout: woodshed.RolloutFunction, question: Any, *replies: Reply) -> woodshed.Trajectory:
    """Run the agent on a question; the engine answers with the replies in order."""
    with ScriptedEngine(in_order(*replies)) as engine:
        with scripted_rollout(engine, scenario_id=question.id) as opened:
            running = rollout(question)
            if inspect.isawaitable(running):
                asyncio.run(finish(running))
        return engine.trajectory(opened)


async def finish(running: Any) -> None:
    await running


def one_of_each_kind(example: SimpleNamespace) -> list[Any]:
    return list({q.kind: q for q in example.make_archive.held_out(count=1000)}.values())


def arguments_of(reply: Reply) -> dict[str, Any]:
    return json.loads(reply.tool_requests[0].arguments)


def test_the_same_seed_gives_the_same_archive_in_another_process_too(example: SimpleNamespace, tmp_path: Path) -> None:
    script = str(EXAMPLE / "make_archive.py")
    for name in ("a.db", "b.db"):
        done = subprocess.run([sys.executable, script, "--to", str(tmp_path / name)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    mails, questions = example.make_archive.written(0)

    assert contents(tmp_path / "a.db") == contents(tmp_path / "b.db") == [tuple_of(mail) for mail in mails]
    assert example.make_archive.written(1)[0] != mails
    assert len(mails) > 3000 and len({q.id for q in questions}) == len(questions) > 500


def contents(file: Path) -> list[tuple[str, ...]]:
    with sqlite3.connect(file) as database:
        return database.execute("SELECT * FROM mail").fetchall()


def tuple_of(mail: Any) -> tuple[str, ...]:
    return mail.id, mail.sent, mail.sender, mail.recipient, mail.subject, mail.body


@pytest.mark.parametrize("seed", range(3))
def test_every_question_has_one_truth_and_the_mails_that_prove_it(example: SimpleNamespace, seed: int) -> None:
    mails, questions = example.make_archive.written(seed)
    body = {mail.id: mail.body for mail in mails}

    for q in questions:
        together = " ".join(body[mail] for mail in q.proof)
        wanted = example.facts.facts(q.truth)
        assert wanted and all(values <= example.facts.facts(together)[kind] for kind, values in wanted.items()), q
        if len(q.proof) == 1:
            assert [m for m in q.thread if example.facts.states(body[m], q.truth)] == [*q.proof], q
            # Nothing that comes later speaks of it again.
            kinds, later = wanted.keys(), q.thread[q.thread.index(q.proof[0]) + 1 :]
            assert not any(example.facts.facts(body[m]).keys() & kinds for m in later), q
    assert len({q.text for q in questions}) == len(questions)
    assert any(len(q.proof) == 2 for q in questions)


def test_held_out_questions_name_no_person_and_no_thing_that_is_practised(example: SimpleNamespace) -> None:
    company = example.company
    practised = " ".join(q.text for q in example.make_archive.written(0)[1] if q.half == "practice").lower()
    held_out = example.make_archive.held_out(count=1000)

    people = [p.name for f in (company.customers, company.suppliers, company.repairers) for p in f("held-out")]
    things = [
        *company.GOODS["held-out"], *company.PROJECTS["held-out"], *company.MACHINES["held-out"],
        *(what for what, _ in company.MATERIALS["held-out"]),
    ]  # fmt: skip
    assert not [word for word in [*people, *things] if word.lower() in practised]
    assert all(any(name in q.text for name in people) and any(t in q.text for t in things) for q in held_out)
    assert len(held_out) > 80 and len(example.make_archive.practice()) == 240


def test_every_question_can_be_answered_with_the_tools(example: SimpleNamespace) -> None:
    for q in example.make_archive.written(0)[1]:
        search, *reads, _ = map(arguments_of, example.talks.steps(q))
        assert set(q.proof) <= set(example.archive.words_of(example.tools.search_mail(**search))), q
        read = " ".join(example.tools.read_mail(**wanted) for wanted in reads)
        assert all(v <= example.facts.facts(read)[k] for k, v in example.facts.facts(q.truth).items()), q


@pytest.mark.filterwarnings("ignore")  # CrewAI's own, of its imports and of its deprecated fields
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_without_errors_passes_in_each_framework(example: SimpleNamespace, framework: str) -> None:
    rollout = example.agents.ROLLOUTS[framework]()

    for question in one_of_each_kind(example):
        steps = example.talks.steps(question)
        trajectory = attempt(rollout, question, *steps)
        assert [call.name for call in trajectory.tool_calls] == [s.tool_requests[0].name for s in steps], question
        assert example.truth.is_right(trajectory, question), (question, trajectory.tool_calls)
        assert example.truth.how_right(trajectory, question) == 1.0
        assert len(trajectory.calls) == len(steps)  # nothing is asked after the answer
    assert len(one_of_each_kind(example)) == 8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_agent_that_only_searches_ends_at_its_limit_and_is_worth_what_it_found(
    example: SimpleNamespace, framework: str
) -> None:
    question = example.make_archive.held_out()[0]
    search = example.talks.steps(question)[0]

    trajectory = attempt(example.agents.ROLLOUTS[framework](), question, *[search] * 8, say("I do not know."))

    assert trajectory.status == "completed" and 8 <= len(trajectory.calls) <= 9
    assert not example.truth.is_right(trajectory, question)
    assert example.truth.how_right(trajectory, question) == 0.1


HOSTILE = (
    '"', '"oak', '""""', "*", "oak*", "NEAR", "NEAR(a b, 2)", "-", "-oak", "oak OR", "AND NOT", "sender:x", "^oak",
    "()", "{}", "_", "a_b", "\x00", "oak\x00", "", " ", "𝔘 ☃", "'; DROP TABLE mail; --", "oak " * 4000, "\ud800",
)  # fmt: skip
CLEAR = ("Nothing to search for in ", "No mail has a", "Newest first:\n")


@pytest.mark.parametrize("words", HOSTILE, ids=ascii)
def test_words_that_are_operators_elsewhere_are_words_here(example: SimpleNamespace, words: str) -> None:
    found = example.tools.search_mail(words)

    assert found.startswith(CLEAR) and ("oak" not in words or len(found.splitlines()) > 1)


@given(words=st.text(), sender=st.text(), after=st.text(), before=st.text())
def test_whatever_is_searched_for_gets_a_clear_result(
    example: SimpleNamespace, words: str, sender: str, after: str, before: str
) -> None:
    found = example.tools.search_mail(words, sender, after, before)

    assert found.startswith(CLEAR) or "is no day; write it as 2025-03-31" in found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_hostile_search_does_not_end_an_attempt(example: SimpleNamespace, framework: str) -> None:
    question = example.make_archive.held_out()[0]
    searches = [call_tool("search_mail", words=words) for words in ('"', "NEAR(", "-oak", "*")]

    trajectory = attempt(example.agents.ROLLOUTS[framework](), question, *searches, *example.talks.steps(question))

    assert trajectory.status == "completed" and not any(call.error for call in trajectory.tool_calls)
    told = [str(call.result) for call in trajectory.tool_calls[:4]]
    assert ["Nothing to search" in told[0], "No mail" in told[1], "Newest" in told[2], "Nothing" in told[3]] == [
        True
    ] * 4
    assert example.truth.is_right(trajectory, question)
    assert example.truth.how_right(trajectory, question) == 0.84  # right, with four calls more than needed


def test_a_search_can_be_narrowed(example: SimpleNamespace) -> None:
    (question,) = (
        q for q in example.make_archive.held_out() if q.text == "What does Oskar Engel pay for the plant stands?"
    )
    search, first = example.tools.search_mail, question.thread[0]

    assert first in search("plant stands", "oskar.engel@")
    assert first not in search("plant stands Oskar Engel", after="2025-03-07")
    assert first in search("plant stands Oskar Engel", before="2025-03-06")
    assert search("oak", after="soon") == "'soon' is no day; write it as 2025-03-31."
    assert "Some of them have:" in search("plant stands of the moon")
    assert example.tools.read_mail("m9999") == "There is no mail 'm9999'; search_mail lists ids."
    assert example.tools.read_mail(7).startswith("There is no mail 7")  # ADK checks no arguments


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("On the 19th of March.", "19 March", True),
        ("March 19, 2025", "19 March", True),
        ("2025-03-19", "19 March", True),
        ("On 19 Mar. we bring 4 desks.", "19 March", True),
        ("On 20 March.", "19 March", False),
        ("On 20 March.", "20 March", True),
        ("On 19 or 20 March.", "20 March", False),
        ("On 19/20 March.", "20 March", False),
        ("On 20 March or the 21st.", "20 March", False),
        ("On 19 March or on 20 March.", "19 March", False),
        ("4,580 or 4,500 EUR", "4,500 EUR", False),
        ("Next week.", "19 March", False),
        ("It is €4,500.00 for 3 stands.", "4,500 EUR", True),
        ("4500 euros", "4,500 EUR", True),
        ("EUR 4,500", "4,500 EUR", True),
        ("4,500", "4,500 EUR", False),
        ("First 4,580 EUR, now 4,500 EUR.", "4,500 EUR", False),
        ("14,500 EUR", "4,500 EUR", False),
        ("Five of them.", "5", True),
        ("He gets 5 (m1578).", "5", True),
        ("15", "5", False),
        ("3, then 5", "5", False),
        ("On March 19 at 2:30 pm", "19 March at 14:30", True),
        ("19 March, 14:30", "19 March at 14:30", True),
        ("19 March at 14:15", "19 March at 14:30", False),
        ("19 March", "19 March at 14:30", False),
        ("In the Mill Café.", "the Mill Café", True),
        ("At the Mill Café or the showroom.", "the Mill Café", False),
        ("", "the Mill Café", False),
    ],
)
def test_an_answer_is_right_in_any_spelling_and_only_if_it_names_no_other_fact(
    example: SimpleNamespace, said: str, truth: str, right: bool
) -> None:
    assert example.facts.states(said, truth) is right


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ({"text": "They pay 1 EUR."}, 0.4),
        ({"text": "It is 4,580 EUR."}, 0.4),  # what an earlier mail said
        ({"text": "4,580 EUR or 4,500 EUR"}, 0.4),
        ({"text": ""}, 0.4),
        ({"sources": []}, 0.6),
        ({"sources": ["m0001"]}, 0.6),
        ({"sources": ["m0645", "m0001"]}, 0.6),
        ({"sources": ["m0578", "m0645"]}, 1.0),  # another mail of the same thread
        ({"sources": ["m0645."]}, 1.0),
    ],
)
def test_a_wrong_answer_and_wrong_sources_fail(example: SimpleNamespace, changed: dict[str, Any], value: float) -> None:
    (question,) = (q for q in example.make_archive.held_out() if q.proof == ("m0645",))
    *steps, last = example.talks.steps(question)
    final = call_tools(ToolRequest(id="call_9", name="answer", arguments=json.dumps(arguments_of(last) | changed)))

    trajectory = attempt(example.agents.langgraph(), question, *steps, final)

    assert example.truth.how_right(trajectory, question) == value
    assert example.truth.is_right(trajectory, question) is (value == 1.0)


def test_a_guess_fails_though_it_is_right(example: SimpleNamespace) -> None:
    question = example.make_archive.held_out()[0]
    search, *_, final = example.talks.steps(question)

    guessed, searched = (attempt(example.agents.langgraph(), question, *s) for s in ((final,), (search, final)))

    assert [example.truth.is_right(t, question) for t in (guessed, searched)] == [False, False]
    assert example.truth.how_right(guessed, question) < example.truth.how_right(searched, question) < 0.8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_talk_is_about_a_practice_question_and_ends_with_the_answer(
    example: SimpleNamespace, framework: str, tmp_path: Path
) -> None:
    practice = example.make_archive.practice()
    rollout = example.agents.ROLLOUTS[framework]()

    found = examples_of_file(example.talks.write_talks(rollout, practice, tmp_path / "talks.jsonl", count=3))

    assert len(found) == 3
    for talk in found:
        asked = next(m["content"] for m in talk.messages if m["role"] == "user")
        (question,) = (q for q in practice if q.text in asked)
        (final,) = talk.messages[-1]["tool_calls"]
        assert final["function"]["name"] == "answer"
        assert json.loads(final["function"]["arguments"])["sources"] == [*question.proof]
        assert {t["function"]["name"] for t in talk.tools} == {"search_mail", "read_mail", "answer"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("by", [["--rules"], ["--judge", "gpt-5-mini"]], ids=lambda by: by[0])
def test_the_command_line_makes_a_training(
    example: SimpleNamespace, framework: str, by: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = example.train.arguments([*by, "--framework", framework, "--model", str(policy_path()), "--held-out", "9"])

    training = example.train.training(asked, woodshed.Engine.connect("http://127.0.0.1:1"))

    assert (asked.talks, len(training.scenarios), len(training.evaluation.scenarios)) == (0, 240, 9)
    assert isinstance(training.reward, woodshed.Ruler if "--judge" in by else woodshed.FunctionReward)
    assert "--judge" not in by or "A later mail may change" in training.reward.rubric


def test_the_command_line_asks_who_rewards(example: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.train.arguments([])

    assert "one of the arguments --judge --rules is required" in capsys.readouterr().err
