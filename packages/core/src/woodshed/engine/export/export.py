"""Merge a LoRA into its base model, write the result in the forms asked for, and load each back to compare it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from woodshed.engine.client.config import ServedModel, check_model
from woodshed.engine.export.gguf_file import licence_of, read_back, write_gguf
from woodshed.engine.export.log_probs import furthest, log_probs
from woodshed.engine.vllm.gguf import converted
from woodshed.errors import EngineError
from woodshed.types import ExportCheck, ExportJob, ExportReport

Progress = Callable[[str], None]

_SAME = 1e-3
"""Nats per token by which the merged model may differ from base and LoRA before it is stored: rounding of float32."""
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "F32": 4, "F16": 2, "BF16": 2, "Q8_0": 34 / 32}
_SPARE = 64 * 2**20
"""Bytes for the tokenizer, and for the file system itself."""


def export(job: ExportJob, progress: Progress) -> ExportReport:
    """Do a job, and return how what was written compares with the policy.

    Takes the base model in float32 of memory, twice while what was written is compared: 8 bytes a weight.

    Raises:
        EngineError: The base model or the LoRA cannot be used, a form cannot be written, or what was written is not
            the policy.
    """
    folder = Path(job.folder)
    progress("loading the base model")
    base, model, tokenizer = _loaded(job, progress)
    stored = str(model.config.dtype).removeprefix("torch.")
    progress("merging the LoRA by PEFT")
    policy = log_probs(model, job.check_ids)
    merged = model.merge_and_unload()
    if (difference := furthest(policy, log_probs(merged, job.check_ids))) > _SAME:
        raise EngineError(
            f"the merged model's log-probabilities are up to {difference:.3g} nats from those of base model and LoRA; "
            "this LoRA cannot be merged. Export it as it is, without --merged and --gguf"
        )
    merged.name_or_path = merged.config._name_or_path = job.base_name
    parameters = sum(p.numel() for p in merged.parameters())
    dtype = stored if job.dtype in (None, "auto") else str(job.dtype)
    _check_room(folder, parameters, [form for form in (job.dtype and dtype, job.quantisation) if form])
    checks: list[ExportCheck] = []
    notes: list[str] = []
    with _writing(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tokenizer-") as aside:
        texts = folder if job.dtype else Path(aside)
        tokenizer.save_pretrained(texts)
        merged.config.save_pretrained(texts)
        if job.quantisation is not None:
            file = folder / job.gguf_name
            progress(f"writing {file.name}")
            expected = write_gguf(file, merged, texts, job.quantisation, name=job.base_name)
            progress(f"loading {file.name} back")
            again, weights, notes = read_back(file, expected, merged.config, tokenizer)
            how = "loaded back by transformers; every weight, and log-probabilities"
            found = furthest(policy, log_probs(again, job.check_ids))
            checks.append(ExportCheck(form=f"GGUF, {job.quantisation}", how=how, log_probs=found, weights=weights))
            del again, expected
        if job.dtype is not None:
            progress(f"writing the merged model ({dtype})")
            merged.to(getattr(torch, dtype)).save_pretrained(folder)
            again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            found = furthest(policy, log_probs(again, job.check_ids))
            checks.append(
                ExportCheck(
                    form=f"merged, {dtype}", how="loaded back by transformers; log-probabilities", log_probs=found
                )
            )
    return ExportReport(
        checks=tuple(checks),
        parameters=parameters,
        architecture=str(merged.config.architectures[0]) if merged.config.architectures else type(merged).__name__,
        dtype=dtype,
        licence=licence_of(Path(base)) if base.endswith(".gguf") else None,
        notes=tuple(notes),
    )


def _loaded(job: ExportJob, progress: Progress) -> tuple[str, Any, Any]:
    """Return the base as it was named, base model and LoRA in float32, and the tokenizer.

    Raises:
        EngineError: One of them cannot be used.
    """
    served = check_model(ServedModel(name="policy", path=job.base))
    (ready,) = asyncio.run(converted([served], progress))
    try:
        base = AutoModelForCausalLM.from_pretrained(ready.path, dtype="auto")
        stored = base.dtype
        tokenizer = AutoTokenizer.from_pretrained(ready.path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise EngineError(f"the base model {job.base!r} cannot be loaded: {' '.join(str(error).split())}") from error
    if job.chat_template is not None:
        tokenizer.chat_template = job.chat_template
    try:
        model = PeftModel.from_pretrained(base.float(), job.adapter)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EngineError(
            f"the LoRA does not fit the base model {job.base!r}: {' '.join(str(error).split())[:500]}. Is it the model "
            "that the run was trained on?"
        ) from error
    model.config.dtype = stored
    return served.path, model.eval(), tokenizer


def _check_room(folder: Path, parameters: int, forms: list[str]) -> None:
    """Raise EngineError where the disk has less room than the forms take."""
    needed = sum(parameters * _BYTES[form] for form in forms) + _SPARE
    if (free := shutil.disk_usage(folder).free) < needed:
        raise EngineError(
            f"the disk of {str(folder.parent)!r} has {free / 2**20:.0f} MiB free, and {' and '.join(forms)} take "
            f"{needed / 2**20:.0f} MiB. Make room, or export to another disk"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        # A full disk shows as whatever the library that was writing makes of it.
        free = shutil.disk_usage(folder).free / 2**20
        raise EngineError(
            f"the export cannot be written to {str(folder.parent)!r} ({free:.0f} MiB are free there): "
            f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        ) from error
