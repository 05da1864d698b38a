"""Which settings of an author's model and requests reach the policy; what is left out is logged once a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from woodshed.capture.context import live_rollout
from woodshed.errors import ConfigError
from woodshed.types.chat_settings import MODEL_SETTINGS, REQUEST_SETTINGS, ChatSetting, is_idle

_log = logging.getLogger("woodshed.capture")

_SDK_ARGUMENTS = frozenset(
    (
        "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "temperature", "top_p",
        "n", "stop", "seed", "max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty",
        "logprobs", "top_logprobs", "stream", "stream_options",
    )
)  # fmt: skip
"""What `chat.completions.create` takes by name; everything else goes into its `extra_body`."""
_OURS = ("authorization", "api-key", "x-api-key", "host", "content-type", "content-length")
"""Headers that say whose call it is, or what its body is."""
_HEADERS = ("headers", "extra_headers")
"""LiteLLM's word and the SDK's."""
_OF_A_REQUEST = {**MODEL_SETTINGS, **REQUEST_SETTINGS}
_OF_A_MODEL = {**REQUEST_SETTINGS, **MODEL_SETTINGS}
_IN_EFFECT = ("kept", "mapped")
_UNKNOWN = ChatSetting(names=(), place="model", fate="dropped", why="")

_said: set[tuple[str, str]] = set()
"""(run, setting) of every line logged."""


def policy_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a chat completion, those of the OpenAI SDK, as the policy takes them.

    Every setting is looked up in `woodshed.types.chat_settings`, also those in `extra_body`. What is left out is logged
    once a run.

    Raises:
        ConfigError: a setting that the policy cannot have, and that the agent would be another one without.
    """
    given = {n: v for field in _HEADERS if params.get(field) for n, v in params[field].items()}
    headers, beside = _headers(given) if given else {}, params.get("extra_body")
    sent = _arguments(
        _wire({n: v for n, v in params.items() if n not in ("extra_body", *_HEADERS)}, _OF_A_REQUEST),
        _wire(beside, _OF_A_REQUEST) if beside else {},
    )
    return {**sent, "extra_headers": headers} if headers else sent


def model_params(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a chat completion, as `policy_params` does, that the fields of a model object stand for.

    A word that both have is the model's own: `metadata` is what a framework's callbacks are told of a model.

    Args:
        settings: field → value of what the author has set.

    Raises:
        ConfigError: a setting that the policy cannot have, and that the agent would be another one without.
    """
    return _arguments(_wire(settings, _OF_A_MODEL), {})


def note_model_settings(settings: Mapping[str, Any]) -> None:
    """Log once a run what a framework's model object sets that has no effect on the policy.

    Args:
        settings: field → value of what the author has set.

    Raises:
        ConfigError: a setting that the policy cannot have, and that the agent would be another one without.
    """
    _wire(settings, _OF_A_MODEL)


def author_settings(model: Any) -> dict[str, Any]:
    """Return the fields of a pydantic model that its author has set to something else than their default."""
    fields = type(model).model_fields
    given: dict[str, Any] = {}
    for name in sorted(model.model_fields_set & fields.keys()):
        value, field = getattr(model, name, None), fields[name]
        default = field.default if field.default_factory is None else None
        # Asked here, too, where no call is needed: most fields are of another type than their default.
        if value is not default and (type(value) is not type(default) or not _same(value, default)):
            given[name] = value
    return given


def _wire(given: Mapping[str, Any], rows: Mapping[str, ChatSetting]) -> dict[str, Any]:
    """Return the fields of a request's body among `given`, under the engine's names."""
    wire: dict[str, Any] = {}
    mapped: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:  # asks for nothing, under every name
            continue
        row = rows.get(name, _UNKNOWN)
        if row.idle and is_idle(value, row):
            continue
        if (row.fate in _IN_EFFECT or _judge(name, value, row)) and row.place == "request":
            (wire if row.to is None else mapped)[row.to or name] = value
    return mapped | wire


def _arguments(wire: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a body as arguments of the SDK; those in `beside` stay in `extra_body`."""
    kept = {name: value for name, value in wire.items() if name in _SDK_ARGUMENTS}
    body = {name: value for name, value in wire.items() if name not in _SDK_ARGUMENTS} | dict(beside)
    return {**kept, "extra_body": body} if body else kept


def _judge(name: str, value: Any, row: ChatSetting) -> bool:
    """Return whether a setting has an effect on the policy; log it where it has none."""
    if row.fate == "refused":
        raise ConfigError(
            f"the agent's model sets {name}={_short(value)}, which the policy cannot have: {row.why}. Leave it out of "
            "the agent that is trained, or put the call inside `with woodshed.untracked():`"
        )
    if row.fate in _IN_EFFECT:
        return True
    rollout = live_rollout()
    # An engine without runs, such as a scripted one, is told apart by its address.
    key = (rollout.run_id or rollout.base_url if rollout is not None else "", name)
    if key not in _said:
        _said.add(key)
        if row is _UNKNOWN:
            _log.warning(
                "%r is a setting that is not known to woodshed; not passed on to the policy. See docs/settings.md", name
            )
        else:
            _log.warning(
                "%r is a setting of the author's provider; inside rollouts it is not sent to the policy: %s",
                name, row.why,
            )  # fmt: skip
    return False


def _headers(given: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in given.items():
        if name.lower() in _OURS or name.lower().startswith("x-woodshed-"):
            _judge(f"extra_headers[{name!r}]", value, _OWN_HEADER)
        else:
            kept[name] = value
    return kept


_OWN_HEADER = ChatSetting(names=(), place="model", fate="dropped", why="the rollout's own says whose call it is")


def _same(value: Any, default: Any) -> bool:
    # Only plain values are compared: an author's object (a client, an array) may refuse to be.
    plain = isinstance(default, (str, int, float, list, dict, tuple))
    return value is default or (plain and type(value) is type(default) and bool(value == default))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def provider_tool(kind: Any) -> str:
    """Return the refusal of a tool that only a provider can run."""
    return (
        f"the agent's model has the tool type {kind!r}, which the model's provider runs itself; the policy can only "
        "call function tools. Give the agent a tool that does the same"
    )
