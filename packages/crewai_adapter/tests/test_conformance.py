"""CrewAI's crews for the contract: the rows are `woodshed.testing.conformance`'s own."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist
from crewai.tools import tool as as_tool
from pydantic import BaseModel

from woodshed.capture import Hook
from woodshed.testing import Reply, say
from woodshed.testing.conformance import AnswerMode, Conformance, Outcome, Streamed, Tool
from woodshed_crewai import CrewAIInstrumentor
from woodshed_crewai.instrumentor import HOOKS

_IDS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|chatcmpl-tool-[0-9a-f]{16}|0x[0-9a-f]+"
)


def chat(base_url: str, max_retries: int = 0) -> LLM:
    """Return the author's model."""
    return LLM(model="gpt-4o-mini", api_key="author", base_url=base_url, max_retries=max_retries)


class TestConformance(Conformance):
    framework = "CrewAI"
    policy = Path(__file__).parents[2] / "tiny_world/src/woodshed_tiny_world/weights/policy"

    def instrumentor(self) -> CrewAIInstrumentor:
        return CrewAIInstrumentor()

    def hooks(self) -> Sequence[Hook]:
        # The executors' modules differ between versions.
        return [hook for hook in HOOKS if importlib.util.find_spec(hook.module)]

    def assistant(
        self, base_url: str, *, tools: Sequence[Tool] = (), name: str = "assistant",
        instruction: str = "Answer in one sentence.", answer: type[BaseModel] | None = None,
        mode: AnswerMode = "json_schema", tool_choice: str | None = None, max_retries: int = 0,
    ) -> Any:  # fmt: skip
        if tool_choice is not None:
            self.lacks("CrewAI sends `tool_choice: auto` with every tool and lets nobody change it")
        # What an agent with tools has answered in prose is asked for again as `output_json`, by a tool call.
        form, own = ("output_json", [*tools, _clock]) if mode == "tool" else ("output_pydantic", tools)
        by = _agent(chat(base_url, max_retries), name, instruction, own)
        return Crew(agents=[by], tasks=[_task(by, **{form: answer})])

    def team(self, base_url: str, *, tools: Sequence[Tool]) -> Any:
        model = chat(base_url)
        planner, *members = (_agent(model, name, f"You are {name}.", tools) for name in ("planner", "red", "blue"))
        planner.allow_delegation = True
        return Crew(agents=[planner, *members], tasks=[_task(planner)])

    def delegation(self, member: str, work: str) -> tuple[str, Mapping[str, Any]]:
        return "delegate_work_to_coworker", {"task": work, "context": "-", "coworker": member}

    def twins(self, base_url: str) -> Any:
        by = [_agent(chat(base_url), "thrower", "You toss.") for _ in range(2)]
        return Crew(agents=by, tasks=[_task(one, context=[]) for one in by])

    def handoff(self, base_url: str) -> Any:
        by = [_agent(chat(base_url), name, f"You are {name}.") for name in ("front", "clerk")]
        return Crew(agents=by, tasks=[_task(one) for one in by])

    def transfer(self) -> Reply:
        return say("One moment, I pass you on.")

    def retrying(self, base_url: str) -> Mapping[str, Any]:
        by = _agent(chat(base_url), "worker", "Be good.")
        return {"guardrail": Crew(agents=[by], tasks=[_task(by, guardrail=_good, guardrail_max_retries=2)])}

    def run_compacting(self, base_url: str, tools: Sequence[Tool]) -> None:
        # CrewAI summarises once a prompt was refused as too long; long instructions bring that forward.
        by = _agent(chat(base_url), "counter", "You count. " + "Count with care. " * 120, tools)
        Crew(agents=[by], tasks=[_task(by)]).kickoff(inputs={"question": "Count everything."})

    def remembering(self, base_url: str) -> Callable[[str], None]:
        folder = tempfile.mkdtemp()

        @persist(SQLiteFlowPersistence(str(Path(folder) / "flows.db")))
        class Notes(Flow):
            @start()
            def note(self) -> None:
                asked = f"{self.state['question']}\nNotes: {self.state.get('notes', 'none')}"
                self.state["notes"] = chat(base_url).call(asked)

        def ask(question: str) -> None:
            flow: Any = Notes()
            flow.kickoff(inputs={"id": "always the same", "question": question})

        return ask

    def run(self, agent: Any, question: str) -> Outcome:
        return _outcome(agent.copy().kickoff(inputs={"question": question}))

    async def arun(self, agent: Any, question: str) -> Outcome:
        return _outcome(await agent.copy().akickoff(inputs={"question": question}))

    async def stream(self, agent: Any, question: str) -> Streamed:
        own = agent.copy()
        own.stream = True
        streaming = await own.kickoff_async(inputs={"question": question})
        chunks = [chunk async for chunk in streaming]
        end = _outcome(streaming.result)
        said = [plain((c.agent_role, c.task_name, c.chunk_type.value, c.content)) for c in chunks]
        # The pieces of agents that work side by side come in any order.
        record = [end.record, sorted(said)]
        return Streamed(
            pieces=[c.content for c in chunks if c.chunk_type.value == "text"],
            outcome=Outcome(text=end.text, parsed=end.parsed, raw=end.raw, record=record),
        )


def _clock() -> str:
    """Tell the time."""
    return "noon"


def _good(output: Any):  # type: ignore[no-untyped-def]  # CrewAI checks the annotation, and knows none that is a string
    return (output.raw == "good", output.raw)


def _agent(model: Any, name: str, instruction: str, tools: Sequence[Tool] = ()) -> Agent:
    own = [as_tool(one.__name__)(one) for one in tools]
    return Agent(role=name, goal="Help.", backstory=instruction, llm=model, tools=own)


def _task(by: Agent, **settings: Any) -> Task:
    return Task(description="{question}", expected_output="An answer.", agent=by, **settings)


def _outcome(result: Any) -> Outcome:
    parsed = result.pydantic
    return Outcome(
        text=result.raw,
        parsed=result.json_dict if parsed is None else parsed.model_dump(),
        raw=result.raw,
        # Without the usage: it adds up over all runs of a model object.
        record=[
            plain((t.name, t.raw, t.agent, t.output_format.value, t.pydantic, t.messages)) for t in result.tasks_output
        ],
    )


def plain(value: Any) -> Any:
    """Return a value without what differs between any two runs: ids and addresses."""
    if isinstance(value, BaseModel):
        return {"class": type(value).__name__, **plain(dict(value))}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return _IDS.sub("ID", value if isinstance(value, str) else repr(value))
