"""Export a run: find its LoRA, write the form asked for with a model card, compare it with the policy, push it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from woodshed.engine.client.adapter_files import NEEDED, fetch_adapter
from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.local import ConnectedEngine
from woodshed.errors import ConfigError
from woodshed.export.card import model_card, modelfile
from woodshed.export.licence import licence_of
from woodshed.export.merging import run_job
from woodshed.export.push import check_push, push
from woodshed.export.target import check_free, whole_folder
from woodshed.export.trained_run import TrainedRun, read_run
from woodshed.training.event_loop import run_to_end
from woodshed.types import ExportCheck, ExportJob, ExportReport, MergedDtype, Quantisation


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A finished export."""

    folder: Path
    base: str
    """Name of the base model."""
    version: int
    """Version of the weights; `step` optimizer steps led to it."""
    step: int
    checks: tuple[ExportCheck, ...]
    """How each written form compares with the policy."""
    notes: tuple[str, ...] = ()
    url: str | None = None
    """Address on the hub, if it was pushed."""


def export_run(
    run: Path | str,
    *,
    to: Path | str,
    best: bool = False,
    merged: MergedDtype | None = None,
    gguf: Quantisation | None = None,
    push_to: str | None = None,
    public: bool = False,
    base: str | None = None,
    engine: ConnectedEngine | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> Exported:
    """Write a run's policy to a folder, as a LoRA in PEFT's layout by default, with a model card.

    Merging and GGUF load the base model in the engine's environment on this machine, which takes 8 bytes of memory a
    weight, and load what was written back to compare it with the policy.

    Args:
        run: Folder of a `woodshed train` or `woodshed sft`; it is not changed.
        to: A new or empty folder.
        best: Export the version with the highest held-out success instead of the last one.
        merged: Write the merged model, stored in this type; `auto` is that of the base model.
        gguf: Write a GGUF file quantised so, with a Modelfile for Ollama.
        push_to: A name on the hub, `OWNER/NAME`, to upload the folder to.
        public: Whether everybody may see it there; a new model is private otherwise.
        base: Folder, GGUF file or hub name of the base model, if it is not where it was for the run.
        engine: The engine that has the LoRA, if it isn't on this machine.
        progress: Called with a few words whenever something happens.

    Raises:
        ConfigError: The run, the folder or a name cannot be used.
        EngineMissing: Merging needs the engine environment, which is not installed here.
        EngineError: The LoRA could not be fetched from the engine.
        ExportError: Merging or writing failed, or the hub refused it.
        StorageError: The disk refuses it.
    """
    folder = Path(to)
    _check_forms(merged, gguf)
    check_free(folder)
    if push_to is not None:
        check_push(push_to)
    trained = read_run(Path(run), best=best)
    named = trained.policy.model if base is None else base
    needs_base = merged is not None or gguf is not None
    if needs_base:
        _check_base(named)
    template = _template(trained)
    with _adapter(trained, engine) as adapter, whole_folder(folder) as aside:
        if needs_base:
            job = ExportJob(
                base=named,
                base_name=_name(named),
                adapter=str(adapter.absolute()),
                folder=str(aside.absolute()),
                dtype=merged,
                quantisation=gguf,
                gguf_name=f"{folder.name}-{gguf}.gguf",
                chat_template=template,
                check_ids=trained.texts,
            )
            report = run_job(job, progress)
        else:
            report = _write_adapter(trained, adapter, aside, _name(named), template)
        licence = licence_of(named) or report.licence
        card = model_card(
            trained, base=_name(named), licence=licence, merged=merged is not None,
            gguf=job.gguf_name if gguf else None, checks=report.checks, has_template=template is not None,
        )  # fmt: skip
        (aside / "README.md").write_text(card)
        if gguf:
            (aside / "Modelfile").write_text(modelfile(trained, job.gguf_name))
    url = None
    if push_to is not None:
        progress(f"pushing to {push_to}")
        url = push(folder, push_to, public=public)
    return Exported(
        folder=folder,
        base=_name(named),
        version=trained.version,
        step=trained.step,
        checks=report.checks,
        notes=report.notes,
        url=url,
    )


def _check_forms(merged: str | None, gguf: str | None) -> None:
    if merged is not None and gguf is not None:
        raise ConfigError(
            "merged weights and a GGUF file in one folder would be taken for one another by transformers; export them "
            "one after the other, to two folders"
        )
    if merged is not None and merged not in get_args(MergedDtype):
        raise ConfigError(f"merged weights cannot be stored as {merged!r}; choose one of {get_args(MergedDtype)}")
    if gguf is not None and gguf not in get_args(Quantisation):
        raise ConfigError(
            f"GGUF quantisation {gguf!r} isn't written here; choose one of {', '.join(get_args(Quantisation))}. For "
            "smaller ones export F16, and run llama.cpp's `llama-quantize IN.gguf OUT.gguf Q4_K_M`"
        )


def _check_base(base: str) -> None:
    if ServedModel(name="policy", path=base).is_hub_name() or Path(base).expanduser().exists():
        return
    raise ConfigError(
        f"the run's base model {base!r} is not here (any more), and merging needs it. Name a folder, GGUF file or hub "
        "name of the same model (base=, `--base`), or export the LoRA alone, without --merged and --gguf"
    )


def _name(base: str) -> str:
    """Return a base model's name without any path of this machine."""
    return base if ServedModel(name="policy", path=base).is_hub_name() else Path(base).expanduser().absolute().name


def _template(trained: TrainedRun) -> str | None:
    """Return the chat template that the policy was given, if it was not its model's own."""
    named = trained.policy.chat_template
    if named is None:
        return None
    try:
        return Path(named).expanduser().read_text()
    except OSError as error:
        raise ConfigError(
            f"the policy was trained with the chat template {named!r}, which cannot be read ({error.strerror}); "
            "without it, it would see other prompts than it learned from. Put the file back"
        ) from error


@contextmanager
def _adapter(trained: TrainedRun, engine: ConnectedEngine | None) -> Iterator[Path]:
    """Yield the folder of the run's LoRA, fetched for the block if the engine alone has it."""
    if trained.adapter is not None:
        yield trained.adapter
        return
    if engine is None:
        raise ConfigError(
            f"the LoRA of version {trained.version} is not in {str(trained.folder)!r}: the run's engine keeps it, in "
            f"{trained.checkpoints or 'a folder of its own'!r}. Name that engine while it runs (engine=, `--engine URL "
            "--api-key …`), or train to the end: a run takes its LoRA home when it is finished"
        )

    async def fetch(folder: Path) -> None:
        async with engine.running() as client:
            name = trained.policy.served().name
            await fetch_adapter(client, name, trained.run_id, trained.version, folder)

    with tempfile.TemporaryDirectory() as aside:
        run_to_end(fetch(Path(aside) / "adapter"))  # in a notebook, too
        yield Path(aside) / "adapter"


def _write_adapter(trained: TrainedRun, adapter: Path, folder: Path, base: str, template: str | None) -> ExportReport:
    """Write the LoRA as PEFT reads it, with the base model's name instead of its path."""
    config, weights = NEEDED
    settings: dict[str, Any] = json.loads((adapter / config).read_text())
    (folder / config).write_text(
        json.dumps(settings | {"base_model_name_or_path": base}, indent=2, sort_keys=True) + "\n"
    )
    shutil.copyfile(adapter / weights, folder / weights)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    same = ExportCheck(form="LoRA, PEFT", how="the bytes of the checkpoint", log_probs=0.0, weights=0.0)
    return ExportReport(checks=(same,), parameters=0, architecture="", dtype="")
