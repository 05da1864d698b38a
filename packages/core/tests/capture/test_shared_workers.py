"""A worker that was started in one rollout answers for others: a call is its own rollout's, or it is refused."""

from __future__ import annotations

import asyncio
import queue
import socketserver
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import anyio.from_thread
import pytest

from woodshed.capture import (
    CallContext,
    Rollout,
    bind,
    current_call_context,
    current_rollout,
    in_call_context,
    require_rollout,
    take_late_calls,
    untracked,
)
from woodshed.errors import LeakError


def a_rollout(name: str) -> Rollout:
    return Rollout(base_url="http://127.0.0.1:1/v1", secret=name, rollout_id=name)


A, B = a_rollout("A"), a_rollout("B")


@pytest.fixture(autouse=True)
def no_late_calls() -> Iterator[None]:
    take_late_calls()
    yield
    take_late_calls()


def who() -> str:
    """Return whose model call this is: a rollout's name, `own` for the author's own model, or why it is refused."""
    try:
        rollout = require_rollout("a model call")
    except LeakError:
        return "refused"
    return rollout.rollout_id if rollout is not None else "own"


class Worker:
    """Does work in one thread, which the first one to ask starts."""

    def __init__(self, make_queue: Callable[[], Any], of: Callable[[], Any] = who) -> None:
        self._make, self._of, self._thread = make_queue, of, None

    def ask(self) -> Any:
        if self._thread is None:
            self._queue = self._make()
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()
        answer: Future[Any] = Future()
        self._queue.put((0, id(answer), answer))
        return answer.result(5)

    def _serve(self) -> None:
        while True:
            *_, answer = self._queue.get()
            answer.set_result(self._of())


@pytest.mark.parametrize("kind", ["Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"])
def test_a_thread_that_reads_a_queue_answers_for_whoever_asked(kind: str) -> None:
    worker = Worker(lambda: getattr(queue, kind)())
    with bind(A):
        seen = [worker.ask()]
        with bind(B):
            seen.append(worker.ask())
        seen.append(worker.ask())
    with bind(B):
        seen.append(worker.ask())
        with untracked():
            seen.append(worker.ask())

    assert seen == ["A", "B", "A", "B", "own"]


def test_a_thread_that_outlives_its_rollout_and_is_told_by_an_event_is_refused() -> None:
    go, done, seen = threading.Event(), threading.Event(), []

    def serve() -> None:
        go.wait(5)
        seen.append(who())
        done.set()

    with bind(A):
        threading.Thread(target=serve, daemon=True).start()
    with bind(B):
        go.set()
        done.wait(5)

    assert seen == ["refused"]
    assert list(take_late_calls()) == [
        "a model call comes from a thread or task that was started in Rollout('A', scenario=''), which has ended: a "
        "worker that outlives its rollout cannot know whose work it does. Start it before the rollouts and hand it "
        "work through a queue or an executor, or start one in each rollout and end it there"
    ]


def test_a_pool_kept_over_rollouts_works_for_whoever_submits() -> None:
    with ThreadPoolExecutor(1) as pool:
        with bind(A):
            seen = [pool.submit(who).result()]
        with bind(B):
            seen.append(pool.submit(who).result())
            with untracked():
                seen.append(pool.submit(who).result())

    assert seen == ["A", "B", "own"]


async def in_rollout(rollout: Rollout, work: Callable[[], Any]) -> Any:
    with bind(rollout):
        return await work()


async def test_a_task_that_reads_a_queue_answers_for_whoever_asked() -> None:
    jobs: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
    started: list[asyncio.Task[None]] = []

    async def serve() -> None:
        while True:
            (await jobs.get()).set_result(who())

    async def ask() -> str:
        if not started:
            started.append(asyncio.create_task(serve()))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await jobs.put(answer)
        return await answer

    seen = [await asyncio.create_task(in_rollout(r, ask)) for r in (A, B, A)]
    both = await asyncio.gather(in_rollout(A, ask), in_rollout(B, ask), in_rollout(A, ask))
    started[0].cancel()

    assert (seen, both) == (["A", "B", "A"], ["A", "B", "A"])


async def test_a_task_that_reads_an_anyio_stream_answers_for_whoever_asked() -> None:
    send, receive = anyio.create_memory_object_stream[asyncio.Future[str]](0)
    started: list[asyncio.Task[None]] = []

    async def serve() -> None:
        async for answer in receive:
            answer.set_result(who())

    async def ask() -> str:
        if not started:
            started.append(asyncio.create_task(serve()))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await send.send(answer)
        return await answer

    seen = [await asyncio.create_task(in_rollout(r, ask)) for r in (A, B, A)]
    send.close()
    await started[0]
    receive.close()

    assert seen == ["A", "B", "A"]


async def test_who_reads_what_others_put_in_stays_in_its_own_rollout() -> None:
    replies: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> tuple[str, str]:
        return await replies.get(), who()

    async def write() -> None:
        await replies.put("from B")

    reading = asyncio.create_task(in_rollout(A, read))
    await asyncio.sleep(0)
    await in_rollout(B, write)

    assert await reading == ("from B", "A")


async def test_a_task_that_outlives_its_rollout_is_refused() -> None:
    go, seen = asyncio.Event(), []

    async def serve() -> None:
        await go.wait()
        seen.append(who())

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(serve())

    task = await in_rollout(A, start)

    async def wake() -> None:
        go.set()
        await task

    await in_rollout(B, wake)

    assert seen == ["refused"]


def test_a_portal_works_for_whoever_calls_it() -> None:
    async def ask() -> str:
        return who()

    with anyio.from_thread.start_blocking_portal() as portal:
        with bind(A):
            seen = [portal.call(ask)]
        with bind(B):
            seen += [portal.call(ask), portal.start_task_soon(ask).result()]

    assert seen == ["A", "B", "B"]


def test_a_portal_started_in_a_rollout_works_for_whoever_calls_it() -> None:
    async def ask() -> str:
        return who()

    with bind(A), anyio.from_thread.start_blocking_portal() as portal:
        seen = [portal.call(ask)]
        with bind(B):
            seen.append(portal.call(ask))

    assert seen == ["A", "B"]


class _Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(who().encode())

    def log_message(self, *_: Any) -> None:
        pass


def get(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return str(opener.open(f"http://127.0.0.1:{port}/", timeout=5).read().decode())


def test_a_threaded_server_started_in_a_rollout_is_refused_a_model() -> None:
    with bind(A):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
        assert isinstance(server, socketserver.BaseServer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen = [get(server.server_port)]
        with bind(B):
            seen.append(get(server.server_port))
    server.shutdown()
    server.server_close()

    assert seen == ["refused", "refused"]


async def test_an_asyncio_server_started_in_a_rollout_is_refused_a_model() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(f"{who()}\n".encode())
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(handle, "127.0.0.1", 0)

    server = await in_rollout(A, start)

    async def ask() -> str:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        answer = (await reader.readline()).decode().strip()
        writer.close()
        return answer

    seen = [await in_rollout(r, ask) for r in (A, B)]
    server.close()

    assert seen == ["refused", "refused"]


def test_the_hooks_are_gone_after_the_last_rollout() -> None:
    before = (queue.Queue.put, queue.Queue.get, queue.SimpleQueue, asyncio.Queue.get_nowait, threading.Thread.start)
    with bind(A), bind(B):
        assert queue.SimpleQueue is not before[2]
    after = (queue.Queue.put, queue.Queue.get, queue.SimpleQueue, asyncio.Queue.get_nowait, threading.Thread.start)

    assert all(one is other for one, other in zip(before, after, strict=True))


def test_the_rollout_of_an_ended_context_is_not_handed_out() -> None:
    seen: list[str] = []
    go = threading.Event()

    def late() -> None:
        go.wait(5)
        with pytest.raises(LeakError, match="which has ended"):
            current_rollout()
        seen.append("refused")

    with bind(A):
        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join(5)

    assert seen == ["refused"]


def test_a_program_that_reads_what_an_agent_streams_stays_outside() -> None:
    stream: queue.Queue[str] = queue.Queue()
    with bind(A):
        stream.put("chunk")
        read: list[str] = []
        outside = threading.Thread(target=lambda: read.extend((stream.get(), who())))
        # As a thread that was there before the rollout: nothing was propagated to it.
        threading.Thread.start.__wrapped__(outside)  # type: ignore[attr-defined]
        outside.join(5)

    assert read == ["chunk", "refused"]
    assert who() == "own"


def test_a_worker_goes_on_in_the_call_context_of_whoever_asked() -> None:
    worker, seen = Worker(queue.Queue, of=lambda: current_call_context().parent_call_id), []
    with bind(A):
        for asked_by in ("first", "second"):
            with in_call_context(CallContext(parent_call_id=asked_by)):
                seen.append(worker.ask())
        seen.append(worker.ask())
    with bind(B), in_call_context(CallContext(parent_call_id="third")):
        seen.append(worker.ask())

    assert seen == ["first", "second", None, "third"]


def test_code_in_a_call_context_of_its_own_keeps_it_when_it_reads_what_another_agent_says() -> None:
    said: queue.Queue[str] = queue.Queue()

    def speak() -> None:
        with in_call_context(CallContext(parent_call_id="inner")):
            said.put("a piece")

    with bind(A), in_call_context(CallContext(parent_call_id="outer")):
        speaker = threading.Thread(target=speak)
        speaker.start()
        assert said.get(timeout=5) == "a piece"
        speaker.join()
        assert current_call_context().parent_call_id == "outer"
