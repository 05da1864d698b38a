"""One policy's LoRA versions in its vLLM servers: each has its own name, so a swap neither stops calls nor mixes them.

With several servers (replicas) a swap is all or nothing: no call gets a version before every server has loaded it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.engine.vllm.server_loras import LoraVersion, ServerLoras
from woodshed.errors import EngineError

_log = logging.getLogger("woodshed.engine")

LEFT_OUT_AFTER_S = 30.0
"""How long a swap waits for a replica that is down or does not answer, once another one has loaded the version."""
_AGAIN_AFTER_S = 2.0


class LoraSlots:
    """The versions that a model's servers have loaded: which of them new calls get, and how that changes.

    A new version is loaded under its own name, then new calls go to it; the previous version stays loaded until its
    last call has ended. So a call uses exactly one version of the weights from its first token to its last, no call
    waits, and vLLM's prefix cache, which is keyed by the adapter's name, cannot return another version's blocks.

    Loading in place (`load_inplace`) would need only one name. But vLLM 0.32 then reads the adapter from disk before
    every decoding step, because the flag stays on the requests.
    """

    def __init__(
        self,
        servers: Sequence[ModelServer],
        http: aiohttp.ClientSession,
        say: Callable[[str], None] = lambda _: None,
        *,
        left_out_after_s: float = LEFT_OUT_AFTER_S,
    ) -> None:
        """Start at version 0: the base model, without an adapter.

        Args:
            servers: Every server of the model.
            http: What they are asked with.
            say: Told whenever a replica is left out of a swap, and when it has caught up.
            left_out_after_s: Seconds that a swap waits for a replica that does not answer, once another has loaded it.
        """
        self._run = 0
        """Counts the runs that have trained this model, so that no two LoRA versions share a name."""
        self._model = servers[0].model.name
        self._current = LoraVersion(name=self._model, version=0, path=None)
        self._on = {server.name: ServerLoras(server, http, lambda: self._current) for server in servers}
        self._say = say
        self._left_out_after_s = left_out_after_s
        self._swap_lock = asyncio.Lock()
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self.left_out: frozenset[str] = frozenset()
        """Names of the servers that the last swap went on without."""
        self.swap_s: float | None = None
        """Seconds that the last swap took; None before the first."""

    @property
    def version(self) -> int:
        """Version of the weights that new calls get."""
        return self._current.version

    def swap_metrics(self) -> dict[str, float]:
        """Return what the last swap took, and on how many servers it went on without them."""
        return {"swap_s": self.swap_s or 0.0, "replicas_left_out": float(len(self.left_out))}

    def serves(self, server: ModelServer) -> bool:
        """Whether a server holds what new calls get."""
        return self._on[server.name].serves(self._current)

    @contextmanager
    def lease(self, server: ModelServer) -> Iterator[LoraVersion]:
        """Yield the newest version, which stays loaded on `server` until the block ends."""
        lora = self._current
        with self._on[server.name].lease(lora):
            yield lora

    async def swap(self, version: int, path: Path) -> None:
        """Load the LoRA in `path` on every server, then send new calls to it; nothing happens if it is current already.

        A server that is down, or does not answer, is left out of the swap once another one has waited for it
        `left_out_after_s`; it gets no call before it has caught up.

        Raises:
            EngineError: A server does not load it. It is unloaded from the others, and new calls keep the version they
                had.
        """
        async with self._swap_lock:
            if version == self._current.version:
                return
            began = time.monotonic()
            run = f".{self._run}" if self._run else ""
            lora = LoraVersion(name=f"{self._model}@{version}{run}", version=version, path=path)
            left_out = await self._load_everywhere(lora)
            self._replace(lora)
            self.swap_s, self.left_out = time.monotonic() - began, frozenset(left_out)
            for name, why in left_out.items():
                self._say(
                    f"{name!r} was left out of the swap to version {version}: {why}. It gets no call before it has "
                    "loaded what the others serve"
                )
                self._catch_up(name)

    async def reset_to_base(self) -> None:
        """Send new calls to the base model, version 0; later versions belong to another run and get other names."""
        async with self._swap_lock:
            self._run += 1
            self._replace(LoraVersion(name=self._model, version=0, path=None))

    def _replace(self, lora: LoraVersion) -> None:
        previous, self._current = self._current, lora
        for held in self._on.values():
            held.drop_if_idle(previous)

    async def _load_everywhere(self, lora: LoraVersion) -> dict[str, str]:
        """Load a version on every server; return the servers that are left out, and why.

        Raises:
            EngineError: One that is up does not load it, or none is up; then none holds it any more.
        """
        insist = len(self._on) > 1
        loading = {name: asyncio.ensure_future(on.load(lora, insist=insist)) for name, on in self._on.items()}
        try:
            await self._until_loaded(loading)
            left_out = {name: why for name, task in loading.items() if (why := self._why_left_out(name, task))}
            failures = {name: task.exception() for name, task in loading.items() if task.done()}
            refusals = {name: error for name, error in failures.items() if error is not None and name not in left_out}
            if not refusals and len(left_out) < len(loading):
                return left_out
            name, error = next(iter({**refusals, **failures}.items()))
            if not insist and error is not None:
                raise error
            raise EngineError(
                f"{name!r} did not load adapter version {lora.version}, so no replica of {self._model!r} serves it: "
                f"{error}"
            )
        except BaseException:
            await _ended(loading.values())  # what is still loading is unloaded, too
            for on in self._on.values():
                on.drop_if_idle(lora)
            raise
        finally:
            await _ended(loading.values())

    async def _until_loaded(self, loading: dict[str, asyncio.Task[None]]) -> None:
        """Wait until every server has loaded or refused; once the first that is up has, only so long for the others."""
        names = {task: name for name, task in loading.items()}
        pending: set[asyncio.Task[None]] = set(names)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(self._on[names[task]].server.is_ready for task in done):
                break
        if pending:
            await asyncio.wait(pending, timeout=self._left_out_after_s)

    def _why_left_out(self, name: str, loading: asyncio.Task[None]) -> str | None:
        """Return why a swap goes on without a server; None for one that has loaded the version, or refused to."""
        server = self._on[name].server
        if server.fault is not None:
            return "it was given up"
        if not loading.done():
            state = "it does not answer" if server.is_ready else "it is down"
            return f"{state}, for {self._left_out_after_s:.0f} s"
        if loading.exception() is not None and not server.is_ready:
            return "it is down"
        return None

    def _catch_up(self, name: str) -> None:
        """Load what new calls get on a server that was left out, as soon as it can."""
        if name not in self._catching_up:
            task = asyncio.ensure_future(self._caught_up(name))
            self._catching_up[name] = task
            task.add_done_callback(lambda _: self._catching_up.pop(name))

    async def _caught_up(self, name: str) -> None:
        on = self._on[name]
        while on.server.fault is None:
            try:
                await on.catch_up()
            except EngineError as error:
                _log.warning("%r has not caught up: %s", name, error)
                await asyncio.sleep(_AGAIN_AFTER_S)
            else:
                self.left_out -= {name}
                self._say(f"{name!r} has caught up and serves version {self.version}")
                return


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel what has not ended, and wait for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
