"""What an export asks of the engine's environment, and what comes back."""

from __future__ import annotations

from typing import Literal

from woodshed.types.record import Record

Quantisation = Literal["F32", "F16", "BF16", "Q8_0"]
"""How a GGUF file holds its matrices; what this writes itself. Smaller ones are made of an F16 file by llama.cpp."""
MergedDtype = Literal["auto", "float32", "bfloat16"]
"""What merged weights are stored in; `auto` is what the base model is stored in."""


class ExportJob(Record):
    """Request to merge a LoRA into its base model, and to write the result."""

    base: str
    """Folder, GGUF file or hub name of the base model."""
    base_name: str
    """Its name without any path, which is what the files say."""
    adapter: str
    """Folder of the LoRA."""
    folder: str
    """Where to write; it exists and is empty."""
    dtype: MergedDtype | None = None
    """What the merged model is stored in; None writes no merged model."""
    quantisation: Quantisation | None = None
    """How a GGUF file is quantised; None writes none."""
    gguf_name: str = "model.gguf"
    chat_template: str | None = None
    """Text of a template that replaces the tokenizer's own, as the policy was trained with."""
    check_ids: tuple[tuple[int, ...], ...] = ()
    """Token ids of texts on which what was written is compared with the policy."""


class ExportCheck(Record):
    """How one written form was compared with the policy: base model and LoRA by PEFT, in float32."""

    form: str
    """`merged, bfloat16`, `GGUF, Q8_0`, …"""
    how: str
    log_probs: float
    """Largest difference of the log-probability of a token, in nats, over all texts."""
    weights: float | None = None
    """Largest difference of a weight from what the form can hold; 0 is exact. None if it was not compared."""


class ExportReport(Record):
    """What was written."""

    checks: tuple[ExportCheck, ...] = ()
    parameters: int
    architecture: str
    dtype: str
    licence: str | None = None
    """That of a GGUF base, if the file says it."""
    notes: tuple[str, ...] = ()
    """What the user should know about it."""
