"""Rows about what rollouts share: workers, errors of woodshed's own, and the state of an agent."""

# ruff: noqa: D102 - the name of a test is its promise

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import openai
import pytest

from woodshed.capture import take_late_calls
from woodshed.testing.conformance.rows import Rows, each_way, look, spoken, system_of, tool_texts, turn_of
from woodshed.testing.conformance.truth import assert_faithful
from woodshed.testing.replies import Reply, call_tool, say
from woodshed.training.report.shared_state import shared_state

Work = Callable[[], str]


class QueueWorker:
    """A daemon thread that the first job starts, and that does one job after the other for whoever asks."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Work, Future[str]]] = queue.Queue()
        self._thread: threading.Thread | None = None

    def __call__(self, work: Work) -> str:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()
        answer: Future[str] = Future()
        self._jobs.put((work, answer))
        return answer.result(60)

    def _serve(self) -> None:
        while True:
            work, answer = self._jobs.get()
            try:
                answer.set_result(work())
            except BaseException as error:
                answer.set_exception(error)


class LoopWorker:
    """A thread with an event loop, in which one task reads a queue for whoever asks; the first job starts them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, work: Work) -> str:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(60)
        return asyncio.run_coroutine_threadsafe(self._ask(work), self._loop).result(60)

    async def _start(self) -> None:
        self._jobs: asyncio.Queue[tuple[Work, asyncio.Future[str]]] = asyncio.Queue()
        self._task = asyncio.create_task(self._serve())

    async def _ask(self, work: Work) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._jobs.put((work, answer))
        return await answer

    async def _serve(self) -> None:
        while True:
            work, answer = await self._jobs.get()
            try:
                answer.set_result(await asyncio.to_thread(work))
            except BaseException as error:
                answer.set_exception(error)


class PoolWorker:
    """An executor that is kept between rollouts; its one thread is started by the first job."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)

    def __call__(self, work: Work) -> str:
        return self._pool.submit(work).result(60)


WORKERS: Mapping[str, Callable[[], Callable[[Work], str]]] = {
    "queue": QueueWorker,
    "executor": PoolWorker,
    "task": LoopWorker,
}


class SharingRows(Rows):
    """Rows 23, 24 and 25."""

    @pytest.mark.parametrize("kind", WORKERS)
    def test_row_23_a_worker_started_in_one_rollout_answers_for_whoever_asked(self, kind: str) -> None:
        helper = self.assistant(self.author.base_url, name="helper", instruction="You are helper.")
        worker = WORKERS[kind]()

        def consult(question: str) -> str:
            """Ask the helper."""
            return worker(lambda: self.run(helper, question).text)

        agent = self.assistant(self.author.base_url, tools=[consult], name="boss", instruction="You are boss.")
        for number in range(3):
            trajectory, outcome = self.practise(consulting, partial(self.run, agent, f"Count thing-{number}-."))

            assert f"There are 7 of thing-{number}-." in outcome.text
            assert len(trajectory.calls) == 3
            said = trajectory.model_dump_json(exclude={"rollout_id", "scenario_id"})
            assert set(re.findall(r"thing-(\d+)-", said)) == {str(number)}
            notes = [call.note for call in trajectory.calls if call.note is not None]
            assert len(notes) == 3
            assert notes[1].parent_call_id == notes[0].call_id
            assert len(assert_faithful(trajectory, self.engine.requests[-3:])) == 2
        assert take_late_calls() == {}

    def test_row_23_a_worker_that_cannot_know_whose_work_it_does_fails_closed(self) -> None:
        helper = self.assistant(self.author.base_url, name="helper", instruction="You are helper.")
        go, done, errors = threading.Event(), threading.Event(), []

        def serve() -> None:
            go.wait(60)
            try:
                self.run(helper, "Count thing-0-.")
            except BaseException as error:
                errors.append(error)
            done.set()

        def start() -> None:
            threading.Thread(target=serve, daemon=True).start()

        def wake() -> None:
            go.set()
            assert done.wait(60)

        first, _ = self.practise(consulting, start)
        second, _ = self.practise(consulting, wake)

        assert (first.calls, second.calls) == ((), ())
        assert len(errors) == 1
        assert self.engine.vllm.asked == []
        assert any("which has ended" in message for message in take_late_calls())

    @each_way
    def test_row_24_an_error_of_ours_that_the_agent_swallows_fails_the_rollout(self, way: str) -> None:
        def ask(question: str) -> str:
            """Ask a model past the framework."""
            elsewhere = openai.OpenAI(base_url=self.author.base_url, api_key="author", max_retries=0)
            asked: Any = [{"role": "user", "content": question}]
            return str(
                elsewhere.chat.completions.create(model="gpt-4o-mini", messages=asked).choices[0].message.content
            )

        agent = self.assistant(self.author.base_url, tools=[ask], instruction="You are boss.")
        self.author.play(lambda request: say("leaked"))
        told: list[str] = []

        def script(request: dict[str, Any]) -> Reply:
            told.extend(tool_texts(request))
            return say("All is well.") if turn_of(request) else call_tool("ask", id="call_1", question="How many?")

        self.engine.vllm.play(script)
        trajectory = self.as_trained(lambda _: self.go(way, agent, "How many lamps?"))

        assert told, "the framework did not swallow the error: the agent never got to its second turn"
        assert self.author.asked == []
        assert trajectory.status == "failed"
        assert trajectory.error is not None
        assert trajectory.error.kind == "LeakError"

    def test_row_25_what_one_attempt_left_in_anothers_first_prompt_is_warned_of(self) -> None:
        ask = self.remembering(self.author.base_url)
        numbers = count(1)
        self.engine.vllm.play(lambda request: say(f"My own guess number {next(numbers)}: there may be some lamps."))

        attempts = [self.as_trained(lambda _: ask("How many lamps are there?"), "lamps") for _ in range(2)]

        assert [attempt.status for attempt in attempts] == ["completed", "completed"]
        (warning,) = shared_state(attempts)
        assert "lamps" in warning
        assert all(attempt.rollout_id in warning for attempt in attempts)
        assert "My own guess number 1" in warning

    def test_row_25_attempts_that_share_nothing_are_not_warned_of(self) -> None:
        agent = self.assistant(self.author.base_url, tools=[look])
        numbers = count(1)

        def script(request: dict[str, Any]) -> Reply:
            if not turn_of(request):
                return call_tool("look", id="call_1", item="lamps")
            return say(f"My own guess number {next(numbers)}: there may be some lamps.")

        self.engine.vllm.play(script)
        attempts = [self.as_trained(lambda _: self.run(agent, "How many lamps are there?"), "lamps") for _ in range(3)]

        assert [len(attempt.calls) for attempt in attempts] == [2, 2, 2]
        assert shared_state(attempts) == []


def consulting(request: dict[str, Any]) -> Reply:
    """Let the boss ask the helper about the thing that it is asked about, and pass the answer on."""
    thing = re.findall(r"thing-\d+-", spoken(request, "user"))[-1]
    if "You are helper." in system_of(request):
        return say(f"There are 7 of {thing}.")
    if turn_of(request):
        return say(f"Told: {tool_texts(request)[-1]}")
    return call_tool("consult", id="call_helper", question=f"Count {thing}.")
