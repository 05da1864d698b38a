"""One rollout: where its model calls go, and what is recorded of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from woodshed.capture.recorder import Recorder, new_id
from woodshed.errors import ConfigError, WoodshedError


class Rollout:
    """One attempt at one scenario.

    An adapter redirects the agent's model calls to `base_url` with `secret` as the API key. Any other OpenAI client
    can do the same by hand: `OpenAI(base_url=r.base_url, api_key=r.secret)` with `r = woodshed.current_rollout()`.
    """

    def __init__(
        self,
        *,
        base_url: str,
        secret: str,
        scenario_id: str = "",
        rollout_id: str | None = None,
        run_id: str | None = None,
    ) -> None:
        """Name the gateway (`base_url` ends in `/v1`), the session's bearer secret and its run, if any."""
        self.rollout_id = rollout_id or new_id()
        self.scenario_id = scenario_id
        self.run_id = run_id
        self.base_url = base_url
        self.secret = secret
        self.recorder = Recorder()
        self.error: WoodshedError | None = None
        """The first error of woodshed's own that was raised in it; it fails the rollout whatever the agent does."""

    def fail(self, error: WoodshedError) -> None:
        """Note an error of woodshed's own, which the agent may catch or hand to its model as a tool's result."""
        self.error = self.error or error

    def __repr__(self) -> str:
        """Name the rollout without its secret."""
        return f"Rollout({self.rollout_id!r}, scenario={self.scenario_id!r})"


class RolloutFunction:
    """A function that takes one scenario and runs the agent on it; outside training it is called as before."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Check that the function takes a scenario."""
        try:
            inspect.signature(function).bind(object())
        except TypeError as error:
            raise ConfigError(
                f"rollout function {getattr(function, '__qualname__', function)!r} cannot be called with one scenario "
                f"({error}); expected a function of one argument: `async def answer(scenario): ...`"
            ) from None
        self.function = function
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        """The author's name for it."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def is_async(self) -> bool:
        """Whether the function must be awaited; a sync function runs in a thread of its own."""
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            getattr(self.function, "__call__", None)  # noqa: B004 - an object whose __call__ is async
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the author's function unchanged."""
        return self.function(*args, **kwargs)


def rollout(function: Callable[..., Any]) -> RolloutFunction:
    """Mark a function of one scenario as the thing to practise.

    The function may be sync or async. What it returns is kept on the trajectory if it is plain JSON; a returned
    dict of numbers under the key `metrics` is kept as the trajectory's metrics.

    Example:
        ```python
        @woodshed.rollout
        async def answer(ticket: Ticket) -> None:
            await agent.ainvoke({"messages": [("user", ticket.text)]})
        ```
    """
    return function if isinstance(function, RolloutFunction) else RolloutFunction(function)
