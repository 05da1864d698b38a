"""A served model's chat template as text, from its files or from the hub, before vLLM is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from woodshed.engine.client.config import ServedModel
from woodshed.errors import EngineError


def template_of(model: ServedModel) -> str | None:
    """Return the text of every template that vLLM may use for a model with tools; None where there is none.

    Raises:
        EngineError: The hub has no such model, or does not answer.
    """
    if model.chat_template is not None:
        return Path(model.chat_template).read_text(errors="replace")
    if (jinja := _file(model, "chat_template.jinja")) is not None:
        return jinja.read_text(errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (template := _json(model, name).get("chat_template")) is not None:
            return _text(template)
    # Mistral's own tokenizer writes the prompt without a template, as `[TOOL_CALLS]` and so on.
    return "tools [TOOL_CALLS]" if _file(model, "tekken.json") is not None else None


def model_type(model: ServedModel) -> str:
    """Return the `model_type` in a model's config; empty where there is none."""
    return str(_json(model, "config.json").get("model_type") or "")


def _text(template: Any) -> str:
    """Return a template, or of several named ones the one for tools where there is one, else the default."""
    if isinstance(template, str):
        return template
    named = {entry["name"]: entry["template"] for entry in template}
    return str(named.get("tool_use") or named.get("default") or "\n".join(named.values()))


def _json(model: ServedModel, name: str) -> dict[str, Any]:
    file = _file(model, name)
    try:
        content = {} if file is None else json.loads(file.read_text())
    except ValueError as error:
        raise EngineError(f"model {model.name!r}: {name} of {model.path!r} is not JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _file(model: ServedModel, name: str) -> Path | None:
    """Return a file of a model's folder, or of the hub; None where there is none."""
    if not model.is_hub_name():
        file = Path(model.path) / name
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(model.path, name))
    except LocalEntryNotFoundError as error:
        # Without the hub, a model that is cached is served from the files that it has there.
        if isinstance(try_to_load_from_cache(model.path, "config.json"), str):
            return None
        raise _unreachable(model, name, error) from error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError, OfflineModeIsEnabled) as error:
        raise _unreachable(model, name, error) from error


def _unreachable(model: ServedModel, name: str, error: Exception) -> EngineError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"model {model.name!r}: {name} of {model.path!r} cannot be fetched from the hub: {lines[0]}")
