"""Do the patches inside vLLM take effect? Asked of each server with one call, before any other is let through."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import msgspec

from woodshed.engine.vllm.model_server import ModelServer
from woodshed.errors import EngineError

# The names in `patches.prompt_tokens`, which cannot be imported where vLLM is not installed.
_HISTORY, _HOOKED = "woodshed_history", "x-woodshed-hooked"


async def check_patches(server: ModelServer, http: aiohttp.ClientSession, progress: Callable[[str], None]) -> None:
    """Send a call as it is recorded. A vLLM that answers it without a patch runs other code than what that replaces.

    Raises:
        EngineError: vLLM failed the call, or a patch has no effect.
    """
    try:
        await _check(server, http, progress)
    except (aiohttp.ClientError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        progress(f"{server.name!r} gave no answer to its first call, so vLLM's patches were not tried ({reason})")


async def _check(server: ModelServer, http: aiohttp.ClientSession, progress: Callable[[str], None]) -> None:
    name = server.name
    body = {
        "model": server.model.name,
        "messages": [{"role": "user", "content": "1"}],
        "max_tokens": 2,
        "logprobs": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "kv_transfer_params": {_HISTORY: []},
    }
    async with http.post(f"{server.url}/v1/chat/completions", json=body, headers=server.headers) as reply:
        raw = await reply.read()
        if reply.status >= 500:
            raise EngineError(
                f"vLLM {server.vllm} for {name!r} failed its first call ({_text(raw)}); last lines of "
                f"{str(server.log)!r} say why"
            )
        if reply.status != 200:
            progress(f"{name!r} refused the first call, so vLLM's patches were not tried ({_text(raw)})")
            return
        (choice,) = msgspec.json.decode(raw)["choices"]
        is_hooked = _HOOKED in reply.headers
    if not is_hooked:
        raise _without_effect(server, "prompt_tokens", "it renders chats without asking for the recorded tokens")
    if (choice.get("logprobs") or {}).get("sampled") is None:
        raise _without_effect(server, "sampled_logprobs", "it answers with other log-probabilities than were asked for")


def _without_effect(server: ModelServer, patch: str, instead: str) -> EngineError:
    return EngineError(
        f"woodshed's patch {patch!r} has no effect in vLLM {server.vllm} for {server.name!r}: {instead}. "
        "`woodshed engine install` brings the vLLM that woodshed is tested with"
    )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")[:500]
