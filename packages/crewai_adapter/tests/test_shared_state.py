"""What CrewAI itself carries from one rollout to the next, and that the README's remedies end it."""

from __future__ import annotations

import uuid
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from author_crews import agent, llm, task
from crewai import Crew, Memory
from crewai.flow.flow import Flow, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist

from woodshed.testing import Reply, ScriptedEngine, say, scripted_rollout
from woodshed_crewai import instrument

pytestmark = pytest.mark.filterwarnings("ignore")  # of LanceDB and of CrewAI's memory


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text) % 7 + 1), 1.0] for text in texts]


def remembering() -> Any:
    """Return a script whose every answer is one that no other rollout gave."""
    numbers = count(1)

    def script(request: dict[str, Any]) -> Reply:
        kind = (request.get("response_format") or {}).get("json_schema", {}).get("name")
        if kind == "ExtractedMemories":
            return say('{"memories": ["It was secret-1."]}')
        if kind == "MemoryAnalysis":
            return say('{"suggested_scope": "/", "categories": [], "importance": 0.9}')
        return say(f"secret-{next(numbers)}")

    return script


def prompts_of_two_rollouts(engine: ScriptedEngine, run: Any) -> list[str]:
    """Return each rollout's first prompt, as text."""
    instrument()
    engine.script = remembering()
    firsts = []
    for n in range(2):
        before = len(engine.requests)
        with scripted_rollout(engine):
            run(n)
        tasks = [str(seen.body["messages"]) for seen in engine.requests[before:]]
        firsts.append(next(text for text in tasks if "Current Task" in text or "Notes" in text))
    return firsts


@pytest.mark.parametrize("is_own", [False, True])
def test_memory_is_shared_unless_each_rollout_has_a_folder_of_its_own(
    engine: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path / "default"))

    def run(n: int) -> None:
        place = {"storage": str(tmp_path / f"rollout-{n}")} if is_own else {}
        by = agent(llm(engine.base_url))
        memory = Memory(llm=llm(engine.base_url), embedder=embed, **place)
        Crew(agents=[by], tasks=[task(by, "What is it?")], memory=memory).kickoff()

    first, second = prompts_of_two_rollouts(engine, run)
    assert "secret-1" not in first
    assert ("secret-1" in second) is not is_own


@pytest.mark.parametrize("is_own", [False, True])
def test_a_persisted_flow_is_shared_unless_each_rollout_has_an_id_of_its_own(
    engine: ScriptedEngine, tmp_path: Path, is_own: bool
) -> None:
    @persist(SQLiteFlowPersistence(str(tmp_path / "flows.db")))
    class Notebook(Flow[dict[str, Any]]):
        @start()
        def write(self) -> None:
            self.state["notes"] = str(llm(self.state["url"]).call(f"Notes: {self.state.get('notes')}"))

    def run(n: int) -> None:
        Notebook().kickoff(inputs={"url": engine.base_url, "id": uuid.uuid4().hex if is_own else "ticket-7"})

    first, second = prompts_of_two_rollouts(engine, run)
    assert "secret-1" not in first
    assert ("secret-1" in second) is not is_own
