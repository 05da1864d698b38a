"""A scripted vLLM: it answers by a function of the request, with the tokens and log-probabilities vLLM 0.32 would send.

It takes the place of vLLM behind woodshed's real gateway, and, called directly, that of the author's own model.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from woodshed.capture import new_id
from woodshed.errors import ConfigError
from woodshed.testing.conformance.vllm_wire import chunks, completion
from woodshed.testing.loopback import LoopbackHandler, LoopbackServer
from woodshed.testing.replies import Reply, Script
from woodshed.testing.tokens import prompt_ids, to_message, to_tool, turn_ids
from woodshed.types import Completion, Message, TokenCall

_VERSION = re.compile(r"@(\d+)")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One answered request, as the model server itself knows it."""

    body: dict[str, Any]
    call: TokenCall
    """The truth that the engine's record of this call is held against; its `call_id` is this server's own."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The request's messages."""
        return list(self.body["messages"])


def strip_thoughts(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation as a template renders it that strips the thinking of earlier turns."""
    return [
        message.model_copy(update={"content": _THOUGHT.sub("", message.content)})
        if message.role == "assistant" and message.content
        else message
        for message in messages
    ]


class ScriptedVllm:
    """An HTTP server on loopback whose answers a function writes; every answer is kept in `served`."""

    def __init__(self, script: Script, *, keeps_connections: bool = True) -> None:
        """Take the function that answers; `start` opens the port.

        An author's client may outlive the event loop that opened its connections: give it a server that keeps none.
        """
        self.script = script
        self.template: Callable[[Sequence[Message]], Sequence[Message]] = lambda messages: messages
        """What the chat template makes of a conversation before it becomes tokens."""
        self.tokens_of: Callable[[Message], tuple[int, ...]] | None = None
        """What an answer's own tokens are, where they are not those that the template gives the same turn later."""
        self.served: list[Served] = []
        self.asked: list[dict[str, Any]] = []
        """Every request body, also of those that were refused or never answered, in order of arrival."""
        self.headers: list[dict[str, str]] = []
        """Headers of those requests, names in lower case."""
        self.released = threading.Event()
        """Set to let requests go that hang."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.vllm = self
        self._server.keeps_connections = keeps_connections
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="scripted-vllm")
        self._thread.daemon = True

    @property
    def url(self) -> str:
        """Root address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def base_url(self) -> str:
        """OpenAI base URL, for an author's model."""
        return f"{self.url}/v1"

    def start(self) -> Self:
        """Listen."""
        self._thread.start()
        return self

    def play(self, script: Script) -> None:
        """Begin a new scene: forget what was asked and served, and answer by `script`."""
        self.released.set()
        self.released = threading.Event()
        self.script, self.served, self.asked, self.headers = script, [], [], []

    def close(self) -> None:
        """Stop listening; hanging requests are cut."""
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, body: dict[str, Any], replies: Sequence[Reply]) -> TokenCall:
        """Return a call's tokens: a byte each, with log-probabilities that tell calls, places and weights apart."""
        messages = self.template([to_message(message) for message in body["messages"]])
        tools = tuple(to_tool(tool) for tool in body.get("tools") or ())
        prompt, version = prompt_ids(messages, tools), _VERSION.search(body["model"])
        return TokenCall(
            call_id=new_id(),
            started_s=time.time(),
            latency_s=0.0,
            messages=tuple(messages),
            tools=tools,
            prompt_ids=prompt,
            completions=tuple(
                _completion(index, reply, len(prompt), int(version[1]) if version else 0, self.tokens_of or turn_ids)
                for index, reply in enumerate(replies)
            ),
        )


def _completion(
    index: int, reply: Reply, prompt: int, version: int, tokens_of: Callable[[Message], tuple[int, ...]]
) -> Completion:
    message = Message(role="assistant", content=reply.content, tool_requests=reply.tool_requests)
    ids = tokens_of(message)
    return Completion(
        index=index,
        message=message,
        token_ids=ids,
        logprobs=tuple(-((prompt * 31 + place * 7 + version * 13) % 97 + 1) / 100 for place in range(len(ids))),
        weight_versions=(version,) * len(ids),
    )


class _Server(LoopbackServer):
    vllm: ScriptedVllm


class _Handler(LoopbackHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.read_json()
        if self.path.endswith(("/load_lora_adapter", "/unload_lora_adapter")):
            self.send_json(200, {"ok": True})
        elif self.path.endswith("/chat/completions"):
            self._chat(self.server.vllm, body)
        else:
            self._refuse(404, f"no route {self.path!r}")

    def _chat(self, vllm: ScriptedVllm, body: dict[str, Any]) -> None:
        vllm.asked.append(body)
        vllm.headers.append({name.lower(): value for name, value in self.headers.items()})
        released, served = vllm.released, vllm.served
        try:
            replies = _replies(vllm.script(body))
        except ConfigError as error:
            return self._refuse(400, str(error))
        first = replies[0]
        if first.hangs or (first.delay_s and released.wait(first.delay_s)):
            released.wait()
            self.close_connection = True
            return
        if first.status != 200:
            return self._refuse(first.status, first.content or f"scripted status {first.status}")
        call = vllm.answer(body, replies)
        served.append(Served(body=body, call=call))
        if body.get("stream"):
            self.send_events(list(chunks(body, replies, call)))
        else:
            self.send_json(200, completion(body, replies, call))

    def _refuse(self, status: int, message: str) -> None:
        kind = "InternalServerError" if status >= 500 else "BadRequestError"
        self.send_json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})


def _replies(answer: Reply | Sequence[Reply]) -> tuple[Reply, ...]:
    """Return one reply per choice; tool requests without an id get a fresh one, `-` stands for an empty one."""
    replies = (answer,) if isinstance(answer, Reply) else tuple(answer)
    return tuple(
        replace(
            reply, tool_requests=tuple(call.model_copy(update={"id": _id(call.id)}) for call in reply.tool_requests)
        )
        for reply in replies
    )


def _id(given: str) -> str:
    return "" if given == "-" else given or f"chatcmpl-tool-{new_id()[:16]}"
