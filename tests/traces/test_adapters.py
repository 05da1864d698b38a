"""The trajectories that the three adapters record go out in every format and come back as the same rows."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from woodshed.testing import call_tools, in_order, say
from woodshed.testing.conformance.rows import Rows, look
from woodshed.testing.conformance.token_rows import team_script
from woodshed.tokens import Row, build_rows
from woodshed.traces import Trace, export_traces, read_traces
from woodshed.traces.messages import talks
from woodshed.traces.of_trajectory import of_trajectory
from woodshed.training.run.store import RunStore
from woodshed.training.sft.conversation_file import examples_of_file
from woodshed.types import Failure, ModelCall, ToolRequest, Trajectory

PACKAGES = Path(__file__).parents[2] / "packages"
pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


@pytest.fixture(scope="module", params=["langgraph", "crewai", "adk"])
def agents(request: pytest.FixtureRequest, needs_engine: None) -> Iterator[Rows]:
    """An adapter's agents of the contract, on woodshed's own engine with a scripted vLLM behind it."""
    folder = PACKAGES / f"{request.param}_adapter" / "tests"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.syspath_prepend(str(folder))
        _module(folder / "conftest.py", request.param)
        made: type[Any] = _module(folder / "test_conformance.py", request.param).TestConformance
        made.setup_class()
        rows = made()
        rows.setup_method(_row)
        try:
            yield rows
        finally:
            rows.teardown_method()
            made.teardown_class()


def _row() -> None:
    """Stand for the row that `setup_method` asks for."""


_row.__name__ = "test_row_99_traces"


def _module(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"traces_{name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _parallel(rows: Rows) -> Trajectory:
    agent = rows.assistant(rows.author.base_url, tools=[look])
    requests = [ToolRequest(id=f"call_{i}", name="look", arguments=f'{{"item":"{i}"}}') for i in ("lamps", "ropes")]
    script = in_order(call_tools(*requests), say("all counted"))
    return rows.practise(script, lambda: rows.run(agent, "How many? ☃ \u2028 \x07"))[0]


def _team(rows: Rows) -> Trajectory:
    agent = rows.team(rows.author.base_url, tools=[look])
    return rows.practise(team_script(rows), lambda: rows.run(agent, "Count all."))[0]


def _retried(rows: Rows) -> Trajectory:
    agent = next(iter(rows.retrying(rows.author.base_url).values()))
    return rows.practise(in_order(say("bad"), say("good")), lambda: rows.run(agent, "Be good."))[0]


def _handed_over(rows: Rows) -> Trajectory:
    agent = rows.handoff(rows.author.base_url)
    script = in_order(rows.transfer(), say("done"))
    return rows.practise(script, lambda: rows.run(agent, "Help."))[0]


WORK: dict[str, Callable[[Rows], Trajectory]] = {
    "parallel tools": _parallel,
    "a team": _team,
    "a retry": _retried,
    "a handoff": _handed_over,
}


def rows_of(calls: tuple[ModelCall, ...]) -> tuple[Row, ...]:
    thrown_away = [call.tokens.call_id for call in calls if call.superseded]
    return build_rows([call.tokens for call in calls], untrained_call_ids=thrown_away)


@pytest.fixture(scope="module")
def recorded(agents: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Trajectory], Path]:
    """Every kind of work once, and a run's folder that holds them."""
    done = {name: work(agents) for name, work in WORK.items()}
    folder = tmp_path_factory.mktemp("run")
    store = RunStore(folder)
    store.claim({"policy": {"model": "tiny"}, "scenarios": 1}, rollout={"name": "answer", "file": None})
    for number, trajectory in enumerate(done.values()):
        store.save_trajectory(f"0/s/{number}", trajectory)
    store.close()
    return done, folder


def back(folder: Path, to: Path, format: str) -> dict[str, Trace]:
    export_traces(folder, to, format)
    read = read_traces(to)
    assert read.notes.lines() == []
    return {trace.id: trace for trace in read.traces}


@pytest.mark.parametrize("format", ["atif", "openinference"])
def test_every_row_comes_back(recorded: Any, tmp_path: Path, format: str) -> None:
    done, folder = recorded
    traces = back(folder, tmp_path / "out.jsonl", format)

    for name, trajectory in done.items():
        rows = rows_of(trajectory.calls)
        assert rows, name
        assert rows_of(traces[trajectory.rollout_id].calls) == rows, name


def test_every_talk_comes_back_and_is_what_sft_takes(recorded: Any, tmp_path: Path) -> None:
    done, folder = recorded
    traces = back(folder, tmp_path / "out.jsonl", "atif")
    export_traces(folder, tmp_path / "talks.jsonl", "messages")

    expected = [line for t in done.values() for line in talks(of_trajectory(t))]
    again = [line for t in done.values() for line in talks(traces[t.rollout_id])]
    assert [line["messages"] for line in again] == [line["messages"] for line in expected]
    assert [list(e.messages) for e in examples_of_file(tmp_path / "talks.jsonl")] == [e["messages"] for e in expected]


def test_every_answer_is_learned_once_and_the_thrown_away_one_never(recorded: Any) -> None:
    done, _ = recorded
    for name, trajectory in done.items():
        lines = list(talks(of_trajectory(trajectory)))
        learned = [m for line in lines for m in line["messages"] if m["role"] == "assistant" and m.get("weight") != 0]
        assert len(learned) == sum(not call.superseded for call in trajectory.calls), name


def test_members_of_a_team_are_sub_agents_of_the_call_that_asked_for_them(recorded: Any, tmp_path: Path) -> None:
    done, folder = recorded
    trace = back(folder, tmp_path / "out.jsonl", "atif")[done["a team"].rollout_id]

    assert [c.agent for c in trace.conversations] == ["planner", "red", "blue"] or [
        c.agent for c in trace.conversations
    ] == ["planner", "blue", "red"]
    (asking,) = {c.parent_call_id for c in trace.conversations[1:]}
    assert asking in {turn.call.tokens.call_id for turn in trace.conversations[0].turns if turn.call is not None}


def test_parallel_results_are_observed_in_the_step_that_asked(recorded: Any, tmp_path: Path) -> None:
    from woodshed.traces.atif_models import Trajectory as Atif

    done, folder = recorded
    export_traces(folder, tmp_path / "out.jsonl", "atif")
    documents = [Atif.model_validate_json(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    (document,) = [d for d in documents if d.session_id == done["parallel tools"].rollout_id]

    (step,) = [s for s in document.steps if s.tool_calls]
    assert step.observation is not None
    assert [r.source_call_id for r in step.observation.results] == ["call_lamps", "call_ropes"]
    assert all("7 of" in str(r.content) for r in step.observation.results)


def test_a_failed_rollout_is_written_with_its_error(recorded: Any, tmp_path: Path) -> None:
    done, _ = recorded
    error = Failure(kind="RolloutTimeout", message="300 s", cause="infrastructure")
    failed = done["parallel tools"].model_copy(update={"status": "timed_out", "error": error})
    store = RunStore(tmp_path / "run")
    store.save_trajectory("0/s/0", failed)
    store.close()
    (trace,) = back(tmp_path / "run", tmp_path / "out.jsonl", "atif").values()

    assert (trace.is_whole, trace.about["error"]["kind"]) == (False, "RolloutTimeout")
    assert rows_of(trace.calls) == rows_of(failed.calls)
