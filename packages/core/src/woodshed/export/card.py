"""The model card of an export: what it is, how it was made, how well it does, and how to serve it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from woodshed import __version__
from woodshed.export.trained_run import TrainedRun
from woodshed.training.report.interval import success_text
from woodshed.types import ExportCheck


def model_card(
    run: TrainedRun,
    *,
    base: str,
    licence: str | None,
    merged: bool,
    gguf: str | None,
    checks: Sequence[ExportCheck],
    has_template: bool,
) -> str:
    """Return `README.md` as the hub reads it; no path of this machine is in it."""
    form = f"a GGUF file (`{gguf}`)" if gguf else "the merged model" if merged else "a LoRA, in PEFT's layout"
    parts = [
        _front(run, base, licence, form="gguf" if gguf else "transformers" if merged else "peft"),
        f"# {base}, trained with woodshed\n\nThis is {form} of {base} after {run.step} optimizer steps.",
        "## How it was trained\n\n" + "\n".join(f"- {line}" for line in _training(run, base, licence)),
        _success(run),
        "## How to serve it\n\n" + _serving(run, base, merged=merged, gguf=gguf, has_template=has_template),
        "## How it was checked\n\n" + _checked(checks),
        f"Exported by [woodshed](https://github.com/woodshed-dev/woodshed) {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def modelfile(run: TrainedRun, gguf: str) -> str:
    """Return a Modelfile with which `ollama create` takes the file up."""
    length = run.policy.max_model_len
    return (
        f"FROM ./{gguf}\nPARAMETER temperature {run.policy.temperature:g}\n"
        + (f"PARAMETER num_ctx {length}\n" if length else "")
        + "# Ollama has a template language of its own, and knows the common chat templates. If answers look odd,\n"
        "# write a TEMPLATE here that gives the prompts of the template inside the GGUF file.\n"
    )


def _front(run: TrainedRun, base: str, licence: str | None, *, form: str) -> str:
    fields = [
        *([f"base_model: {base}"] if "/" in base else []),
        *([f"license: {licence}"] if licence else []),
        *([f"library_name: {form}"] if form != "gguf" else []),
        "pipeline_tag: text-generation",
        "tags:\n- woodshed\n- "
        + ("sft" if run.is_sft else "grpo")
        + {"peft": "\n- lora", "gguf": "\n- gguf"}.get(form, ""),
    ]
    return "---\n" + "\n".join(fields) + "\n---"


def _training(run: TrainedRun, base: str, licence: str | None) -> list[str]:
    lora, figures = run.policy.lora, run.figures
    shape = f"LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)}"
    lines = [f"Base model: {base} (licence: {licence or 'not known; see the base model'})"]
    if run.is_sft:
        conversations = figures.get("conversations")
        data = f" {conversations} conversations," if conversations else ""
        return [*lines, f"Method: supervised fine-tuning,{data} {len(run.history)} steps", shape]
    scenarios = run.settings.get("scenarios", {}).get("ids", ())
    rollouts = sum(row.get("rollouts", 0) for row in run.history[: run.step])
    masked = sum(row.get("masked", 0) for row in run.history[: run.step])
    loss = run.settings.get("config", {}).get("loss", {}).get("name", "grpo")
    source = run.settings.get("rollout") or {}
    task = f"`{source['name']}`" if source.get("name") else "not named"
    return [
        *lines,
        f"Task: {task}; {len(scenarios)} scenarios, {rollouts} rollouts ({masked} masked) in {run.step} steps",
        f"Reward: {_without_path(figures.get('judge')) or 'not known (the run did not come to its end)'}",
        f"Method: {loss}, sampled at temperature {run.policy.temperature:g}; {shape}",
    ]


def _without_path(name: Any) -> str | None:
    return PurePath(name).name if isinstance(name, str) and name.startswith(("/", "~")) else name


def _success(run: TrainedRun) -> str:
    if not run.evaluations:
        return ""
    rows = [
        f"| {point.step}{' (this one)' if point.version == run.version else ''} | "
        f"{success_text(point.success, point.interval)} | {point.rollouts if point.rollouts is not None else ''} |"
        for point in run.evaluations
    ]
    return (
        "## Success on held-out scenarios\n\nMean over scenarios that were never trained on, with its 95 % interval, "
        "clustered by scenario.\n\n| optimizer steps | success | rollouts |\n|---|---|---|\n" + "\n".join(rows)
    )


def _serving(run: TrainedRun, base: str, *, merged: bool, gguf: str | None, has_template: bool) -> str:
    if gguf:
        return (
            f"With Ollama:\n\n```bash\nollama create my-policy -f Modelfile\nollama run my-policy\n```\n\n"
            f"With llama.cpp:\n\n```bash\nllama-server -m {gguf} --jinja\n```\n\n"
            "For vLLM and transformers, export the merged model (`woodshed export RUN --merged`)."
        )
    flags = _vllm_flags(run, has_template=has_template and not merged)
    if merged:
        return (
            f"With vLLM, in this folder:\n\n```bash\nvllm serve .{flags}\n```\n\nWith transformers:\n\n```python\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained(".")\nmodel = AutoModelForCausalLM.from_pretrained(".")\n```\n\n'
            "For Ollama, export a GGUF file (`woodshed export RUN --gguf Q8_0`)."
        )
    rank = run.policy.served().max_lora_rank
    return (
        f"With vLLM, in this folder; calls name the model `policy`:\n\n```bash\nvllm serve {base} --enable-lora "
        f"--max-lora-rank {rank} --lora-modules policy=.{flags}\n```\n\nWith transformers and PEFT:\n\n```python\n"
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), ".")\n```\n\n'
        + ("" if "/" in base else f"`{base}` stands for the folder of the base model on your machine.\n\n")
        + "For Ollama, export a GGUF file (`woodshed export RUN --gguf Q8_0`)."
    )


def _vllm_flags(run: TrainedRun, *, has_template: bool) -> str:
    policy = run.policy
    parser = policy.tool_call_parser
    return (
        (f" --max-model-len {policy.max_model_len}" if policy.max_model_len else "")
        + (" --chat-template chat_template.jinja" if has_template else "")
        + (f" --enable-auto-tool-choice --tool-call-parser {parser}" if parser not in (None, "auto") else "")
        + (f" --reasoning-parser {policy.reasoning_parser}" if policy.reasoning_parser else "")
    )


def _checked(checks: Sequence[ExportCheck]) -> str:
    return "| form | compared by | largest difference of a log-probability (nats) |\n|---|---|---|\n" + "\n".join(
        f"| {check.form} | {check.how} | {check.log_probs:.2g} |" for check in checks
    )
