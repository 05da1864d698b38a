"""Work that is handed to somebody else: a queue's item brings the rollout of whoever put it in.

A worker that was started in one rollout answers for others: a thread that reads a queue, a task, an MCP session whose
server asks for samples, a server. Three rules, all in place while a rollout is bound:

- Who takes an item from a queue or an in-memory stream goes on under the binding of whoever put it in, and in their
  call context: as a part of the same agent's work and of the same attempt at it.
- What an MCP server asks of its client belongs to the one rollout with a request in flight there; where there are
  several, nobody knows whose it is, and a model call of it is refused.
- A server's handlers belong to no rollout, whoever started it: a model call of theirs is refused, too.
"""

from __future__ import annotations

import queue
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import thread as pools
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import wrapt

from woodshed.capture.call_context import CallContext, adopt_call_context, current_call_context, in_call_context
from woodshed.capture.context import Binding, adopt, bound_to, current_binding, while_bound
from woodshed.capture.hooks import Hook, HookSet
from woodshed.capture.sdk_guard import SECRET_HOOKS


class _Giver(NamedTuple):
    """Whose work something is."""

    binding: Binding
    context: CallContext


def _giver() -> _Giver | None:
    binding = current_binding()
    return _Giver(binding, current_call_context()) if binding is not None else None


_Tags = dict[int, deque[_Giver | None]]
_tags: weakref.WeakKeyDictionary[Any, _Tags] = weakref.WeakKeyDictionary()
"""Container → id of an item in it → who put it in, oldest first."""


def _tag(container: Any, item: Any) -> None:
    _tags.setdefault(container, {}).setdefault(id(item), deque()).append(_giver())


def _untag(container: Any, item: Any, *, newest: bool = False) -> _Giver | None:
    tags = _tags.get(container, {})
    waiting = tags.get(id(item))
    if not waiting:
        return None
    giver = waiting.pop() if newest else waiting.popleft()
    if not waiting:
        del tags[id(item)]
    return giver


def _taken(container: Any, item: Any) -> Any:
    """Go on under the binding that an item brings, and return the item."""
    giver = _untag(container, item)
    if giver is None or (giver.binding is current_binding() and giver.context is current_call_context()):
        return item  # most items: a framework's own, put in and taken out by the same agent's work
    # The items of a pool bring their own bindings, and for one job only (see `propagate`).
    if not isinstance(item, pools._WorkItem) and adopt(giver.binding):
        adopt_call_context(giver.context)
    return item


def _around_put(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    item = args[0] if args else kwargs["item"]
    _tag(instance, item)
    try:
        return wrapped(*args, **kwargs)
    except BaseException:
        _untag(instance, item, newest=True)
        raise


def _around_get(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return _taken(instance, wrapped(*args, **kwargs))


async def _around_send(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    item = args[0] if args else kwargs["item"]
    state, bound = instance._state, current_binding()
    if bound is not None:
        _tag(state, item)
    return await wrapped(*args, **kwargs)


async def _around_receive(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return _taken(instance._state, await wrapped(*args, **kwargs))


class _SimpleQueue(queue.SimpleQueue):  # type: ignore[type-arg]
    """`queue.SimpleQueue`, which is written in C and cannot be hooked, as a class whose items know who put them in."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        _tag(self, item)
        super().put(item, block, timeout)

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return _taken(self, super().get(block, timeout))

    def get_nowait(self) -> Any:
        return self.get(block=False)


def _around_serve(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    with bound_to(None):
        return wrapped(*args, **kwargs)


async def _around_async_serve(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    with bound_to(None):
        return await wrapped(*args, **kwargs)


_in_flight: weakref.WeakKeyDictionary[Any, list[_Giver]] = weakref.WeakKeyDictionary()
"""MCP session → whose requests wait for an answer there, oldest first."""


async def _around_mcp_request(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    giver = _giver()
    if giver is None:
        return await wrapped(*args, **kwargs)
    waiting = _in_flight.setdefault(instance, [])
    waiting.append(giver)
    try:
        return await wrapped(*args, **kwargs)
    finally:
        waiting[:] = [other for other in waiting if other is not giver]


async def _around_mcp_callback(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    with _as_who_waits(instance):
        return await wrapped(*args, **kwargs)


async def _around_mcp_dispatch(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    answerer = args[3] if len(args) > 3 else kwargs["on_request"]
    session = getattr(answerer, "__self__", None)  # a client's session, or nothing that ever sent a request
    with _as_who_waits(session) if session is not None and session in _in_flight else nullcontext():
        return await wrapped(*args, **kwargs)


@contextmanager
def _as_who_waits(session: Any) -> Iterator[None]:
    """Answer what an MCP server asks of its client as the rollout whose request it works on."""
    waiting = _in_flight.get(session, [])
    bindings = list(dict.fromkeys(giver.binding for giver in waiting))
    known = waiting[0] if len(bindings) == 1 else None
    with bound_to(known.binding if known else _unknown(bindings)):
        with in_call_context(known.context) if known else nullcontext():
            yield


def _unknown(waiting: list[Binding]) -> Binding:
    rollouts = tuple(binding.rollout for binding in waiting if binding.rollout is not None)
    who = f"{len(rollouts)} rollouts wait for answers of one MCP session" if rollouts else "no rollout waits for it"
    return Binding(
        None, None, candidates=rollouts,
        unknown=f"an MCP server asks for it, and {who}; open a session in each rollout",
    )  # fmt: skip


_UNIX = "asyncio.unix_events"

HANDOFF_HOOKS = while_bound(
    HookSet(
        (
            Hook("queue", "Queue.put", _around_put),
            Hook("queue", "Queue.get", _around_get),
            Hook("asyncio.queues", "Queue.put_nowait", _around_put),
            Hook("asyncio.queues", "Queue.get_nowait", _around_get),
            Hook("socketserver", "BaseServer.serve_forever", _around_serve),
            Hook("asyncio.base_events", "BaseEventLoop.create_server", _around_async_serve),
            Hook(
                "asyncio.unix_events", "_UnixSelectorEventLoop.create_unix_server", _around_async_serve, optional=True
            ),
        )
    )
)
"""Applied while at least one rollout is bound, reverted exactly after the last."""

_LATER = {
    "anyio.streams.memory": (
        Hook("anyio.streams.memory", "MemoryObjectSendStream.send", _around_send),
        Hook("anyio.streams.memory", "MemoryObjectReceiveStream.receive", _around_receive),
    ),
    "mcp.client.session": (
        Hook("mcp.client.session", "ClientSession.send_request", _around_mcp_request),
        # In version 1 of the SDK; version 2 has the next.
        Hook("mcp.client.session", "ClientSession._received_request", _around_mcp_callback, optional=True),
    ),
    "mcp.shared.jsonrpc_dispatcher": (
        Hook("mcp.shared.jsonrpc_dispatcher", "JSONRPCDispatcher._handle_request", _around_mcp_dispatch),
    ),
    "openai._base_client": SECRET_HOOKS,
    "uvicorn.server": (Hook("uvicorn.server", "Server.serve", _around_async_serve),),
}
"""The same for packages that are hooked once somebody has imported them, and never imported for it."""


class _Imported(HookSet):
    """Hooks of a module, in place while a rollout is bound and the module is there."""

    def __init__(self, module: str, hooks: tuple[Hook, ...]) -> None:
        super().__init__(hooks)
        self._module = module
        self._wanted = False
        wrapt.register_post_import_hook(lambda _: self.apply() if self._wanted else None, module)

    def apply(self) -> None:
        self._wanted = True
        if self._module in sys.modules:
            super().apply()

    def revert(self) -> None:
        self._wanted = False
        super().revert()


class _SimpleQueues(HookSet):
    """`queue.SimpleQueue` as a class of ours while a rollout is bound."""

    def __init__(self) -> None:
        super().__init__(())

    def apply(self) -> None:
        if queue.SimpleQueue is not _SimpleQueue:
            self._before: Callable[[], Any] = queue.SimpleQueue
            queue.SimpleQueue = _SimpleQueue  # type: ignore[misc]

    def revert(self) -> None:
        if queue.SimpleQueue is _SimpleQueue:
            queue.SimpleQueue = self._before  # type: ignore[misc, assignment]


LATER_HOOKS = tuple(while_bound(_Imported(module, hooks)) for module, hooks in _LATER.items())
SIMPLE_QUEUES = while_bound(_SimpleQueues())
