"""The sampled tokens of one model call: their text, how likely each was, and whether it was trained."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from woodshed.errors import ConfigError
from woodshed.tokens import why_untrained
from woodshed.training.run.read_store import ReadStore
from woodshed.types import Completion
from woodshed.view.attempts import trajectory_at
from woodshed.view.conversation import Json
from woodshed.view.groups import stored_group
from woodshed.view.reader import RunReader
from woodshed.view.training_state import training_states

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids → the text that each of them adds."""


def tokens(run: RunReader, slot: str, call_id: str) -> Json:
    """Return the tokens of a call, each with text, log-probability (nats), importance ratio and weight version.

    Raises:
        ConfigError: there is no such attempt or call.
    """
    settings = run.settings()
    group_id = slot.rpartition("/")[0]
    step = group_id.partition("/")[0]
    with run.store() as store:
        found = trajectory_at(store, slot)
        call = next((c for c in found.calls if c.tokens.call_id == call_id), None)
        if call is None:
            raise ConfigError(f"attempt {slot!r} has no call {call_id!r}")
        state: Json = {}
        if step.isdigit():
            state = training_states(store, settings, int(step), [stored_group(store, group_id)]).get(
                found.rollout_id, {}
            )
        ratios, no_ratios = _log_ratios(run, store, step, found.rollout_id, call_id)
    untrained = _why_not(state, superseded=call.superseded, of_call=why_untrained(call.tokens))
    pieces, no_text = _pieces(str((settings.get("policy") or {}).get("model") or ""), run.folder)
    single = len(call.tokens.completions) == 1
    return {
        "call": call_id,
        "trained": untrained is None,
        "untrained": untrained,
        "prompt_tokens": len(call.tokens.prompt_ids),
        "notes": [note for note in (no_text, no_ratios if untrained is None else None) if note],
        "completions": [
            {"finish_reason": m.finish_reason, "tokens": _rows(m, pieces, ratios if single else None)}
            for m in call.tokens.completions
        ],
    }


def _why_not(state: Json, *, superseded: bool, of_call: str | None) -> str | None:
    if superseded:
        return "a framework's retry replaced the answer"
    if of_call is not None:
        return of_call
    if state.get("state") == "trained":
        return None if state.get("advantage") != 0 else "its advantage is 0"
    return str(state.get("why") or ("its step is not trained yet" if state else "held-out attempts are never trained"))


def _rows(answer: Completion, pieces: Pieces | None, ratios: Sequence[float] | None) -> list[Json]:
    texts = pieces(answer.token_ids) if pieces is not None else None
    fits = ratios is not None and len(ratios) == len(answer.token_ids)
    return [
        {
            "id": token,
            "text": texts[k] if texts is not None else None,
            "logprob": answer.logprobs[k] if k < len(answer.logprobs) else None,
            "version": answer.weight_versions[k] if k < len(answer.weight_versions) else None,
            "ratio": math.exp(ratios[k]) if fits and ratios is not None else None,
        }
        for k, token in enumerate(answer.token_ids)
    ]


def _log_ratios(
    run: RunReader, store: ReadStore, step: str, rollout_id: str, call_id: str
) -> tuple[list[float] | None, str | None]:
    """Return the log importance ratios of a call's tokens, or why they are not known."""
    done = store.step(f"step-{int(step):05d}") if step.isdigit() else None
    if done is None:
        return None, None
    name = f"policies/*/{store.fact('run_id')}/log_ratios/{done[0].version:05d}.json.gz"
    file = next((run.folder / "engine").glob(name), None)
    if file is None:
        return None, "importance ratios are not in this folder: the engine of this run is elsewhere, or older"
    try:
        kept: dict[str, dict[str, list[float]]] = _read_ratios(file, file.stat().st_mtime)
    except (OSError, ValueError) as error:
        return None, f"importance ratios cannot be read: {error}"
    return kept.get(rollout_id, {}).get(call_id), None


@lru_cache(maxsize=1)
def _read_ratios(file: Path, changed: float) -> dict[str, Any]:
    return dict(json.loads(gzip.decompress(file.read_bytes())))


def _pieces(model: str, folder: Path) -> tuple[Pieces | None, str | None]:
    """Return a function that splits a run's tokens into texts, or why there is none."""
    try:
        file = _tokenizer_file(model, folder)
        if file is None:
            return None, f"token texts need the model's tokenizer.json, and it is not on this machine ({model})"
        return _splitter(str(file)), None
    except ImportError:
        return None, "token texts need `tokenizers`, which `pip install 'woodshed[view]'` brings"
    except Exception as error:
        # Whatever another library makes of a file of somebody else's: only the texts are missing.
        return None, f"the model's tokenizer cannot be read: {error}"


def _tokenizer_file(model: str, folder: Path) -> Path | None:
    path = Path(model).expanduser()
    for found in (path / "tokenizer.json", folder / path / "tokenizer.json"):
        if found.is_file():
            return found
    if path.exists() or model.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "tokenizer.json")
    return Path(cached) if isinstance(cached, str) else None


@lru_cache(maxsize=2)
def _splitter(file: str) -> Pieces:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)

    def pieces(ids: Sequence[int]) -> list[str]:
        """Return what each token adds to the text; a letter of several tokens comes with its last one."""
        texts, done, begun = [], "", 0
        for end in range(1, len(ids) + 1):
            whole = str(tokenizer.decode(list(ids[begun:end]), skip_special_tokens=False))
            if whole.endswith("\ufffd") and end < len(ids):
                texts.append("")
                continue
            texts.append(whole.removeprefix(done))
            done = whole
            # From here on only what follows is decoded again: a window, or long answers would take too long.
            if end - begun > 32:
                begun, done = end - 1, str(tokenizer.decode([ids[end - 1]], skip_special_tokens=False))
        return texts

    return pieces
