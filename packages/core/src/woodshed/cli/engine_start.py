"""`woodshed engine start`: the arguments and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EACH = "VALUE for every model, or NAME=VALUE for one; repeatable."


def start(
    model: Annotated[list[str], typer.Option("--model", help="NAME=PATH of a model to serve; repeatable.")],
    home: Annotated[Path, typer.Option(help="Folder for logs, sessions and checkpoints.")] = Path("runs/engine"),
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback needs --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8900,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="WOODSHED_API_KEY",
            help="Key that clients must send. Better in the environment, where no list of processes shows it. "
            "Without one the engine makes a key, prints it and keeps it in HOME/api_key.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name under which a proxy on this machine passes requests on; repeatable."),
    ] = None,
    max_model_len: Annotated[
        list[str] | None,
        typer.Option(help=f"Longest prompt plus answer in tokens; the model's own limit otherwise. {_EACH}"),
    ] = None,
    tool_call_parser: Annotated[
        list[str] | None,
        typer.Option(
            help="vLLM's name of the model's tool-call format, such as hermes, llama3_json or mistral; auto (the "
            f"default) is the one its chat template writes, none is for no tools. {_EACH}"
        ),
    ] = None,
    reasoning_parser: Annotated[
        list[str] | None,
        typer.Option(help=f"vLLM's name of the model's thinking format, such as qwen3. {_EACH}"),
    ] = None,
    chat_template: Annotated[
        list[str] | None, typer.Option(help=f"Jinja file in place of the tokenizer's own template. {_EACH}")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"auto (the default), float32, bfloat16 or float16. {_EACH}")
    ] = None,
    max_lora_rank: Annotated[
        list[str] | None,
        typer.Option(help=f"Largest rank of a LoRA that can be trained: 8, 16 (the default), 32, … 256. {_EACH}"),
    ] = None,
    lora_slots: Annotated[
        list[str] | None,
        typer.Option(help=f"Versions of the LoRA in use at once: a run's max_staleness + 2, so 3. {_EACH}"),
    ] = None,
    max_num_seqs: Annotated[
        list[str] | None, typer.Option(help=f"Calls that are decoded at the same time; 64 otherwise. {_EACH}")
    ] = None,
    gpu_memory_fraction: Annotated[
        list[str] | None,
        typer.Option(help=f"Share of the GPU's memory for the model's vLLM; 0.4 otherwise. {_EACH}"),
    ] = None,
    trainers: Annotated[
        int, typer.Option(min=1, help="Processes that share each training step, with a GPU each where there are any.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Place the vLLM servers on a Ray cluster's nodes: auto, its address, or local for one of this machine."
        ),
    ] = None,
    gpu_sharing: Annotated[
        list[str] | None,
        typer.Option(
            help="split (the default): vLLM and the trainer each have a part of the GPU; sleep: they take turns. "
            f"{_EACH}"
        ),
    ] = None,
    replicas: Annotated[
        list[str] | None, typer.Option(help=f"vLLM servers that serve the model; 1 otherwise. {_EACH}")
    ] = None,
    tensor_parallel: Annotated[
        list[str] | None, typer.Option(help=f"GPUs that each of these servers is spread over; 1 otherwise. {_EACH}")
    ] = None,
) -> None:
    """Run an engine that many runs can use, one after the other; stop it with Ctrl-C.

    The model called `policy` is trained, all others are only served. A run that connects says what it needs, and is
    refused where the engine serves something else. So give here what the run's Policy sets:

    woodshed engine start --model policy=Qwen/Qwen2.5-3B-Instruct --max-model-len 8192

    woodshed engine start --model policy=meta-llama/Llama-3.2-3B-Instruct --tool-call-parser llama3_json

    woodshed engine start --model policy=./mine --model judge=./judge --tool-call-parser judge=none --dtype bfloat16

    Then, in the run: engine=Engine.connect("http://127.0.0.1:8900", api_key=...), as the engine prints it once it is
    ready. From other machines put TLS in front (docs/remote_engine.md).
    """
    from woodshed.cli.engines import serve_forever

    settings = {
        "max_model_len": max_model_len,
        "tool_call_parser": tool_call_parser,
        "reasoning_parser": reasoning_parser,
        "chat_template": chat_template,
        "dtype": dtype,
        "max_lora_rank": max_lora_rank,
        "lora_slots": lora_slots,
        "max_num_seqs": max_num_seqs,
        "gpu_memory_fraction": gpu_memory_fraction,
        "gpu_sharing": gpu_sharing,
        "replicas": replicas,
        "tensor_parallel": tensor_parallel,
    }
    serve_forever(
        models=model,
        settings={name: values for name, values in settings.items() if values},
        home=home,
        host=host,
        port=port,
        api_key=api_key,
        allowed_hosts=allow_host or (),
        trainers=trainers,
        ray=ray,
    )
