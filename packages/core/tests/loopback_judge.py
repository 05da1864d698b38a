"""A judge's server on the loopback: real HTTP, chat completions, and every way of answering badly."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from woodshed.rewards.judge import Judge

Request = dict[str, Any]
Words = str | Callable[[Request], str | None]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One thing the server does with a request."""

    status: int = 200
    words: Words | None = None
    """Content of a chat completion."""
    body: Any = None
    """In place of a chat completion: JSON, or bytes as they are."""
    headers: tuple[tuple[str, str], ...] = ()
    finish_reason: str = "stop"
    hangs_s: float = 0.0
    closes: bool = False
    usage: tuple[int, int] | None = (100, 10)
    likely: Callable[[Request], list[tuple[str, dict[str, float]]]] | None = None
    """Tokens of the completion, each with the probabilities of the tokens in its place; sent if asked for."""


def says(words: Words, **more: Any) -> Reply:
    return Reply(words=words, **more)


def fails(status: int, message: str = "no", *, headers: tuple[tuple[str, str], ...] = (), **error: Any) -> Reply:
    return Reply(status=status, body={"error": {"message": message, **error}}, headers=headers)


class LoopbackJudge:
    """Plays `script` reply by reply (the last one for ever) and keeps what it was asked."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        self.repairs: Reply | None = None
        """What a repair is answered with, whenever it comes; it takes nothing from the script."""
        self.requests: list[Request] = []
        self.keys: list[str] = []
        self.busiest = 0
        """Most requests that were in flight at once."""
        self._busy = 0
        self._lock = threading.Lock()
        self._going = threading.Event()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                judge._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01))
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def judge(self, **settings: Any) -> Judge:
        """The client's side of this server."""
        return Judge("loopback", **{"base_url": self.base_url, "timeout_s": 10.0, "max_retries": 1, **settings})

    def _answer(self, http: BaseHTTPRequestHandler) -> None:
        request = json.loads(http.rfile.read(int(http.headers["content-length"])))
        with self._lock:
            if self.repairs is not None and len(request["messages"]) > 2:
                reply = self.repairs
            else:
                reply = self.script[min(len(self.requests), len(self.script) - 1)]
            self.requests.append(request)
            self.keys.append(http.headers.get("authorization", ""))
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            self._going.wait(reply.hangs_s)
            self._write(http, reply, request)
        except ConnectionError:  # the client went away, as one that waits no longer does
            http.close_connection = True
        finally:
            with self._lock:
                self._busy -= 1

    def _write(self, http: BaseHTTPRequestHandler, reply: Reply, request: Request) -> None:
        if reply.closes:
            http.close_connection = True
            return
        shown = reply.body if reply.words is None else completion(reply, request)
        raw = shown if isinstance(shown, bytes) else json.dumps(shown).encode()
        http.send_response(reply.status)
        http.send_header("content-type", "application/json")
        http.send_header("content-length", str(len(raw)))
        for name, value in reply.headers:
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(raw)


def completion(reply: Reply, request: Request) -> dict[str, Any]:
    words = reply.words(request) if callable(reply.words) else reply.words
    made: dict[str, Any] = {
        "id": "c", "object": "chat.completion", "created": int(time.time()), "model": request["model"],
        "choices": [{"index": 0, "finish_reason": reply.finish_reason,
                     "message": {"role": "assistant", "content": words}}],
    }  # fmt: skip
    if reply.likely is not None and request.get("logprobs"):
        made["choices"][0]["logprobs"] = {"content": [
            {"token": token, "logprob": math.log(likely.get(token, 1e-9)), "bytes": None, "top_logprobs": [
                {"token": other, "logprob": math.log(p) if p else -9999.0, "bytes": None} for other, p in likely.items()
            ]} for token, likely in reply.likely(request)
        ]}  # fmt: skip
    if reply.usage is not None:
        made["usage"] = {"prompt_tokens": reply.usage[0], "completion_tokens": reply.usage[1],
                         "total_tokens": sum(reply.usage)}  # fmt: skip
    return made


def attempts_of(user: str) -> dict[str, str]:
    """The attempts a judge is shown, by id, as one that heeds the fence code reads them."""
    fence = user.splitlines()[0].removeprefix("fence code: ")
    blocks = re.findall(rf"^<attempt (\w+) {fence}>\n(.*?)\n</attempt \1 {fence}>$", user, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def verdict(scores: dict[str, float]) -> str:
    return json.dumps({"scores": [{"id": i, "explanation": f"why {i}", "score": s} for i, s in scores.items()]})


def grades(marks: dict[str, float], *, reverse: bool = False) -> Callable[[Request], str]:
    """An honest judge: an attempt's score is that of the first word of `marks` it contains."""

    def answer(request: Request) -> str:
        shown = attempts_of(request["messages"][1]["content"])
        scores = {i: next(s for word, s in marks.items() if word in text) for i, text in shown.items()}
        return verdict(dict(reversed(scores.items())) if reverse else scores)

    return answer


def worths(marks: dict[str, float], request: Request) -> dict[str, float]:
    """What the attempts of a request are worth, by id: by the first word of `marks` that each contains."""
    shown = attempts_of(request["messages"][1]["content"])
    return {i: next(s for word, s in marks.items() if word in text) for i, text in shown.items()}


def labels(marks: dict[str, float]) -> Callable[[Request], str]:
    """An honest judge in any mode: a digit for one attempt, a letter for two without JSON, else a verdict."""

    def answer(request: Request) -> str:
        worth = worths(marks, request)
        if "JSON" in request["messages"][0]["content"]:
            return verdict(worth)
        if len(worth) == 1:
            return str(round(9 * worth["A"]))
        return "A" if worth["A"] >= worth["B"] else "B"

    return answer
