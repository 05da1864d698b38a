"""Is it the model that was asked for? What an engine serves, compared with what a run needs of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.fingerprint import file_hash, fingerprint, whole_hash
from woodshed.errors import ConfigError
from woodshed.types import ModelHealth, ModelSettings

_log = logging.getLogger("woodshed.engine")

_COMPARED = ("max_model_len", "tool_call_parser", "reasoning_parser", "dtype")
"""Settings that must be equal, where the run sets them."""


def check_served(url: str, asked: Sequence[ServedModel], served: Sequence[ModelHealth]) -> None:
    """Check that the engine at `url` serves each model as it is asked for; what was not set is not compared.

    Every model that is asked for must be served under its name.

    Raises:
        ConfigError: A model is served in another way; names every difference with both values.
    """
    settings_of = {model.name: model.settings for model in served}
    differences, flags = [], []
    for model in asked:
        found = list(_differences(model, settings_of[model.name]))
        differences += [f"{model.name}: {setting} is {is_!r}, asked for is {ask!r}" for setting, is_, ask in found]
        flags += [_flag(model, setting, ask) for setting, _, ask in found]
        if "lora_slots" in model.model_fields_set and model.lora_slots > (slots := settings_of[model.name].lora_slots):
            _log.warning(
                "the engine at %s can mix %d versions of %r, and max_staleness makes up to %d; calls of the newest may "
                "wait for older ones. `woodshed engine start --lora-slots %d` avoids it",
                url, slots, model.name, model.lora_slots, model.lora_slots,
            )  # fmt: skip
        if "replicas" in model.model_fields_set and model.replicas != (served_by := settings_of[model.name].replicas):
            _log.warning(
                "the engine at %s serves %r by %d replica%s, asked for are %d; only the speed of rollouts changes. "
                "`woodshed engine start --replicas %d` serves as many",
                url, model.name, served_by, "" if served_by == 1 else "s", model.replicas, model.replicas,
            )  # fmt: skip
    if differences:
        raise ConfigError(
            f"the engine at {url} serves other than this run asks for:\n  "
            + "\n  ".join(differences)
            + f"\nstart it with `woodshed engine start {' '.join(flags)}`, or ask for what it serves"
        )


def _differences(asked: ServedModel, served: ModelSettings) -> Iterator[tuple[str, object, object]]:
    """Yield name, served value and value asked for of each setting that differs."""
    if not _is_same_model(asked, served):
        yield "model", _told(served.model, served.fingerprint), _told(asked.path, fingerprint(asked.path))
    for name in _COMPARED:
        ask, is_ = getattr(asked, name), getattr(served, name)
        is_unknown = is_ is None and name in ("max_model_len", "dtype")
        if name in asked.model_fields_set and ask not in (is_, "auto") and not is_unknown and _is_set(name, ask):
            yield name, is_, ask
    if "chat_template" in asked.model_fields_set and not _is_same_template(asked, served):
        yield "chat_template", _told(served.chat_template, served.chat_template_hash), asked.chat_template
    if asked.trainable and not served.trainable:
        yield "trainable", False, True
    if asked.trainable and asked.max_lora_rank > served.max_lora_rank:
        yield "max_lora_rank", served.max_lora_rank, asked.max_lora_rank


def _is_set(name: str, value: object) -> bool:
    """Whether a value asks for something; None asks for the model's own length, but for no parser at all."""
    return value is not None or name != "max_model_len"


def _is_same_model(asked: ServedModel, served: ModelSettings) -> bool:
    """Whether both are one model: by its bytes where this machine has it too, else by its name."""
    file = Path(asked.path).expanduser()
    if asked.is_gguf() and file.is_file():
        # The engine keeps what it makes of a GGUF file in a folder that is named by the file's hash.
        return Path(served.model).name == whole_hash(file)
    here = fingerprint(asked.path)
    if here is not None and served.fingerprint is not None:
        return here == served.fingerprint
    return served.model in (asked.path, str(Path(asked.path).expanduser().absolute()))


def _is_same_template(asked: ServedModel, served: ModelSettings) -> bool:
    here = None if asked.chat_template is None else file_hash(asked.chat_template)
    if here is not None and served.chat_template_hash is not None:
        return here == served.chat_template_hash
    return asked.chat_template == served.chat_template


def _told(name: str | None, digest: str | None) -> str | None:
    return f"{name} ({digest})" if name is not None and digest is not None else name


def _flag(model: ServedModel, setting: str, ask: object) -> str:
    if setting == "model":
        return f"--model {model.name}={model.path}"
    if setting == "trainable":
        return f"--model policy={model.path}"
    value = "none" if ask is None else ask
    return f"--{setting.replace('_', '-')} {model.name}={value}"
