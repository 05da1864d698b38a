"""`woodshed export`: arguments → an export, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a `woodshed train` or `woodshed sft` run.", metavar="RUN")],
    to: Annotated[Path, typer.Option(help="New or empty folder to write to.")],
    best: Annotated[bool, typer.Option("--best", help="The version with the highest held-out success.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Merge the LoRA into the base model.")] = False,
    dtype: Annotated[
        str, typer.Option(help="Of merged weights: auto (the base model's), float32 or bfloat16.")
    ] = "auto",
    gguf: Annotated[str | None, typer.Option(help="Write a GGUF file: Q8_0, F16, BF16 or F32.")] = None,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME on the Hugging Face hub to upload it to.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it there; private otherwise.")] = False,
    base: Annotated[str | None, typer.Option(help="The base model, if it isn't where it was for the run.")] = None,
    engine: Annotated[str | None, typer.Option(help="Address of the engine, if it alone has the LoRA.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")] = None,
) -> None:
    """Write a trained policy to a folder: a LoRA for PEFT and vLLM, merged weights, or a GGUF file for Ollama.

    \b
    woodshed export runs/support --to my-lora
    woodshed export runs/support --best --merged --to my-model --push me/my-model
    woodshed export runs/support --gguf Q8_0 --to my-gguf

    A model card goes with it. Merged weights and GGUF are loaded back and compared with the policy.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from rich.console import Console

    from woodshed.engine.client.local import Engine
    from woodshed.export.export import export_run

    console = Console(soft_wrap=True, highlight=False)
    done = export_run(
        run,
        to=to,
        best=best,
        merged=dtype if merged else None,  # type: ignore[arg-type] # checked, with the choices in the message
        gguf=gguf,  # type: ignore[arg-type]
        push_to=push,
        public=public,
        base=base,
        engine=Engine.connect(engine, api_key=api_key) if engine else None,
        progress=lambda message: console.print(f"{message} …", markup=False),
    )
    for check in done.checks:
        console.print(f"{check.form}: {check.how}; log-probabilities differ by at most {check.log_probs:.2g} nats")
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"{done.base} after {done.step} steps (version {done.version}) is in {done.folder}", markup=False)
    if done.url:
        console.print(f"pushed to {done.url}", markup=False)
