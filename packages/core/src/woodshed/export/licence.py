"""The licence of a base model, where it says one: in the front matter of its model card."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from woodshed.engine.client.config import ServedModel

_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LICENCE = re.compile(r"^license:\s*['\"]?([\w.+-]+)", re.MULTILINE)


def licence_of(base: str) -> str | None:
    """Return the licence's identifier, such as `apache-2.0`; None if it isn't known on this machine."""
    card = _card(base)
    try:
        front = _FRONT.match(card.read_text()) if card is not None else None
    except (OSError, ValueError):
        return None
    found = _LICENCE.search(front[1]) if front else None
    return found[1].lower() if found else None


def _card(base: str) -> Path | None:
    if not ServedModel(name="policy", path=base).is_hub_name():
        return Path(base).expanduser() / "README.md"
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(base, "README.md")
    return Path(found) if isinstance(found, str) else None
