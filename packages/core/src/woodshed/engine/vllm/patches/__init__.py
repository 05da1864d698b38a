"""Patches that run inside vLLM's own processes; nothing else of woodshed does, but for the fork server."""

from __future__ import annotations

import importlib

_PATCHES = ("token_texts", "sampled_logprobs", "prompt_tokens", "core_process")
_PATCHES_CPU = ("lora_cpu",)
_installed = False


def install() -> None:
    """Install every patch in this process, once: in the server's, and in the engine core's where it has its own.

    Raises:
        EngineError: vLLM does not have what one of them replaces.
    """
    global _installed
    if _installed:
        return
    on_cpu = bool(importlib.import_module("vllm.platforms").current_platform.is_cpu())
    for name in (*_PATCHES, *(_PATCHES_CPU if on_cpu else ())):
        importlib.import_module(f"{__name__}.{name}").install()
    _installed = True
