"""A served model as vLLM's command line and environment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from woodshed.engine.client.config import ServedModel, gpus_of
from woodshed.engine.vllm.tool_parsers import OWN

_GIB = 2**30

LORAS_IN_MEMORY = 64
"""LoRA versions that vLLM holds beside those in a batch. One that it dropped while a long call still used it would be
read again from a checkpoint that may be gone. Only versions in use are loaded, so a high limit costs nothing."""


def threads_for(models: int) -> int:
    """Return how many OpenMP threads each vLLM server gets without a GPU: an equal share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // models, cores - 1))


def fork_server_environment(models: int, *, gpu: bool) -> dict[str, str]:
    """Return the environment variables that must be set before vLLM is imported."""
    common = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        # The gateway keeps its connections open. A server that closes an idle one may do so just as a call is sent on
        # it.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "86400",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if gpu:
        # Its kernels are compiled during a first call, by a compiler that many machines lack, and a call whose
        # log-probabilities are recorded cannot use them.
        return common | {"VLLM_USE_FLASHINFER_SAMPLER": os.environ.get("VLLM_USE_FLASHINFER_SAMPLER", "0")}
    # Scheduler and worker in one process: no message queue between them, and 0.6 GB less memory.
    return common | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads_for(models)),
        # A thread that waits for the next step must not keep a core busy.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def server_environment(model: ServedModel, key: str) -> dict[str, str]:
    """Return the environment variables of one server, in addition to those of the fork server.

    They are sent to it through a pipe, so that `key`, which its port asks for, is in no list of processes.
    """
    # The name in `patches.door`, which is imported only inside vLLM.
    sleeps = {"VLLM_SERVER_DEV_MODE": "1"} if model.gpu_sharing == "sleep" else {}  # opens `/sleep` and `/wake_up`
    return {"WOODSHED_VLLM_KEY": key} | sleeps | ({} if model.is_hub_name() else {"HF_HUB_OFFLINE": "1"})


def visible_devices(models: Sequence[ServedModel], ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return server → the environment variable that shows it its own GPUs alone; empty where all get the first one.

    Args:
        models: All models of the engine.
        ids: The GPUs of this machine, as `gpu_ids` returns them.
    """
    placed = gpus_of(models, len(ids)) if len(ids) > 1 else {}
    if all(indices == (0,) for indices in placed.values()):
        return {}
    return {name: {"CUDA_VISIBLE_DEVICES": ",".join(ids[gpu] for gpu in gpus)} for name, gpus in placed.items()}


def dtype_for(model: ServedModel, *, gpu: bool) -> str:
    """Return vLLM's `--dtype`: the model's own setting, or else what keeps log-probabilities equal to the trainer's.

    The trainer computes in float32 without a GPU and in bfloat16 with one, and the policy must be sampled in the same
    precision; vLLM's own "auto" would turn a float32 model into 16 bits. A model that is only served keeps float32
    without a GPU if its weights are stored so.
    """
    if model.dtype != "auto":
        return model.dtype
    if model.trainable:
        return "bfloat16" if gpu else "float32"
    return "float32" if not gpu and stored_dtype(model) == "float32" else "auto"


def stored_dtype(model: ServedModel) -> str | None:
    """Return the dtype in a model's config.json; None where there is none."""
    path = Path(model.path) / "config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text())
    stored = config.get("dtype") or config.get("torch_dtype")
    return str(stored) if stored else None


def command_line(model: ServedModel, port: int, *, gpu: bool, host: str = "127.0.0.1") -> list[str]:
    """Return vLLM's arguments for one model; it listens on `host`."""
    arguments = [
        *("--model", model.path, "--served-model-name", *_served_names(model)),
        *("--host", host, "--port", str(port)),
        *("--dtype", dtype_for(model, gpu=gpu), "--max-num-seqs", str(model.max_num_seqs)),
        # Temperature, top_p and so on come from the caller, not from a generation_config.json.
        *("--generation-config", "vllm"),
        # Log-probabilities of the distribution that is sampled from: after temperature, not before.
        *("--logprobs-mode", "processed_logprobs"),
        # Serves `derender`: vLLM's tool and reasoning parsers for an answer that was not sampled in this call.
        "--enable-scale-out",
        *("--middleware", "woodshed.engine.vllm.patches.prompt_tokens.ForkHeaders"),
        # The last one stands before all others.
        *("--middleware", "woodshed.engine.vllm.patches.door.Door"),
        *("--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"),
        *("--disable-log-stats", "--no-enable-log-requests"),
        # How much of a prompt was in the prefix cache: all that is known of it without vLLM's own statistics.
        "--enable-prompt-tokens-details",
    ]
    if model.max_model_len is not None:
        arguments += ["--max-model-len", str(model.max_model_len)]
    if model.tool_call_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", model.tool_call_parser]
        if (plugin := OWN.get(model.tool_call_parser)) is not None:
            arguments += ["--tool-parser-plugin", plugin]
    else:
        # With some vocabularies vLLM's default, xgrammar, forbids tokens that the grammar allows; the demo's judge
        # could not begin its verdict with the only token it knows. This backend is exact, but has no tool calls.
        arguments += ["--structured-outputs-config.backend", "guidance"]
    if model.reasoning_parser is not None:
        arguments += ["--reasoning-parser", model.reasoning_parser]
    if model.chat_template is not None:
        arguments += ["--chat-template", model.chat_template]
    if model.trainable:
        arguments += [
            *("--enable-lora", "--max-lora-rank", str(model.max_lora_rank)),
            *("--max-loras", str(model.lora_slots), "--max-cpu-loras", str(LORAS_IN_MEMORY)),
        ]
    if model.adapter is not None:
        arguments += [
            *("--enable-lora", "--max-lora-rank", str(model.max_lora_rank), "--max-loras", "1"),
            *("--lora-modules", f"{model.name}={model.adapter}"),
        ]
    if gpu:
        return [
            *arguments,
            *(("--enable-sleep-mode",) if model.gpu_sharing == "sleep" else ()),
            *("--gpu-memory-utilization", str(model.gpu_memory_fraction)),
            *("--tensor-parallel-size", str(model.tensor_parallel)),
        ]
    return [
        *arguments,
        "--enforce-eager",
        # When a prompt is split over two steps, vLLM 0.32 rewinds the random generator of a call with a `seed`. A CPU's
        # generator cannot do that ("CPU Generator does not use offset"), and the server would die.
        "--no-enable-chunked-prefill",
        *("--distributed-executor-backend", "uni"),
        # Short blocks, because an agent's calls share most of their prompt and only whole blocks are shared.
        *("--block-size", "32"),
        *("--kv-cache-memory-bytes", str(kv_cache_bytes(model))),
    ]


def _served_names(model: ServedModel) -> tuple[str, ...]:
    # Calls to the model's name must use its adapter, so the model without it gets another name.
    return (model.name,) if model.adapter is None else (f"{model.name}.base",)


def kv_cache_bytes(model: ServedModel) -> int:
    """Return the size of the KV cache without a GPU: the model's own setting, or what all calls together need.

    No more than that, because vLLM zeroes it at every start: for a small model, a gigabyte takes most of the start.
    """
    if model.kv_cache_gib is not None:
        return int(model.kv_cache_gib * _GIB)
    try:
        shape = json.loads((Path(model.path) / "config.json").read_text())
        heads = int(shape.get("num_key_value_heads") or shape["num_attention_heads"])
        head_dim = int(shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"])
        per_token = 2 * 4 * int(shape["num_hidden_layers"]) * heads * head_dim
        longest = model.max_model_len or int(shape["max_position_embeddings"])
    except (OSError, ValueError, KeyError):
        return 2 * _GIB
    return min(4 * _GIB, max(_GIB // 16, per_token * longest * model.max_num_seqs))
