"""The commands of `woodshed`."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from woodshed import __version__
from woodshed.capture.user_frames import user_line, user_traceback
from woodshed.cli.engine_logs import logs
from woodshed.cli.engine_start import start
from woodshed.cli.engine_status import restart, status
from woodshed.cli.export import export
from woodshed.cli.judge_check import judge_check
from woodshed.cli.mcp import mcp
from woodshed.cli.ray import ray_app
from woodshed.cli.traces import export_traces, from_traces
from woodshed.cli.view import show, view
from woodshed.errors import WoodshedError

app = typer.Typer(
    help="Train the agent you already have: rollouts, an LLM judge's scores, GRPO on a LoRA, vLLM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
engine_app = typer.Typer(help="The engine: vLLM and a trainer, in their own environment.", no_args_is_help=True)
app.add_typer(engine_app, name="engine")
app.add_typer(ray_app, name="ray")
app.command()(mcp)
engine_app.command()(start)
engine_app.command()(logs)
engine_app.command()(status)
engine_app.command()(restart)
app.command()(judge_check)
app.command()(export_traces)
app.command()(from_traces)
app.command()(view)
app.command()(show)
app.command()(export)
_INTERRUPTED = 130
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


def main() -> None:
    """Run the command line.

    Woodshed's own errors are printed without a traceback, and those of the user's code with their own frames only.
    """
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=_errors, show_path=False)]
    )
    try:
        # With standalone_mode=False, a command's exit status is returned instead of raised.
        status = app(standalone_mode=False)
    except WoodshedError as error:
        place = user_line(error)
        notes = [f"({place})"] if place else []
        _stop("\n".join([f"{type(error).__name__}: {error}", *notes, *error.__notes__]), 1)
    except ExceptionGroup as group:
        _stop(user_traceback(group) or "\n".join(_flat(group)), 1)
    except typer.Exit as stop:
        status = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        if hasattr(error, "format_message"):  # a click usage error: bad flag, missing argument
            _stop(f"{error.format_message()} (see `woodshed --help`)", 2)
        if (shown := user_traceback(error)) is not None:
            _stop(shown, 1)
        raise
    if status == _INTERRUPTED:  # typer turns Ctrl-C into this status
        again = "without --fresh" if "--fresh" in sys.argv else "again"
        _stop(f"stopped; run the same command {again} to resume", _INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _stop(message: str, code: int) -> NoReturn:
    _errors.print(message, style="bold red" if code == 1 else None, markup=False)
    sys.exit(code)


def _flat(group: BaseExceptionGroup[BaseException]) -> list[str]:
    return [
        line
        for e in group.exceptions
        for line in (_flat(e) if isinstance(e, BaseExceptionGroup) else [f"{type(e).__name__}: {e}"])
    ]


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"woodshed {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train the agent you already have."""


@app.command()
def train(
    file: Annotated[
        Path, typer.Argument(help="Python file that defines one `woodshed.Training(...)`.", metavar="FILE.py")
    ],
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps in all; more than a finished run has extend it.")
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Rollouts per scenario and step.")] = None,
    scenarios_per_step: Annotated[int | None, typer.Option(help="Scenarios per step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the run.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run; the one in the folder is renamed.")] = False,
    no_checks: Annotated[bool, typer.Option("--no-checks", help="Skip the checks before the first step.")] = False,
    track: Annotated[
        str | None, typer.Option(help="Trackers, with commas: wandb, mlflow, tensorboard, trackio.", metavar="NAMES")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and errors.")] = False,
) -> None:
    """Train what FILE.py describes. After Ctrl-C or a crash, run the same command again to resume.

    A finished run is left as it is: --steps with a greater number extends it, --fresh starts anew.
    """
    from woodshed.cli.files import load_training

    training = load_training(file).with_overrides(
        run_dir=run_dir,
        fresh=fresh,
        steps=steps,
        group_size=group_size,
        scenarios_per_step=scenarios_per_step,
        seed=seed,
    )
    replace(
        training,
        checks=training.checks and not no_checks,
        track=training.track if track is None else track,
        quiet=training.quiet or quiet,
    ).run()


@app.command()
def sft(
    source: Annotated[
        Path, typer.Argument(help="Folder of a `woodshed train` run, or a .jsonl file of conversations.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Hub name, folder or GGUF file of the model; by default that of the run.")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="For a run: lowest score to train on.")] = None,
    top: Annotated[
        int | None, typer.Option(help="For a run: best rollouts per group to train on.", show_default="1")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over all conversations.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Conversations per optimizer step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="AdamW's learning rate, after 5 warm-up steps.")] = 1e-4,
    rank: Annotated[
        int | None, typer.Option(help="Rank of the LoRA; alpha is twice the rank.", show_default="16")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share to measure and never train on, such as 0.1.")] = 0.0,
    max_model_len: Annotated[int | None, typer.Option(help="Longest conversation in tokens.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file in place of the model's own chat template.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order and of the held-out share.")] = 0,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the SFT run; default runs/sft.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; the SFT run in the folder is renamed.")] = False,
    track: Annotated[
        str, typer.Option(help="Trackers, with commas: wandb, mlflow, tensorboard, trackio.", metavar="NAMES")
    ] = "",
    engine: Annotated[str | None, typer.Option(help="Address of a running engine; default: start one here.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")] = None,
) -> None:
    """Fine-tune a policy on finished conversations (SFT), to start a run from the resulting LoRA.

    \b
    woodshed sft runs/support            the best rollout of every judged group
    woodshed sft runs/support --min-score 0.8 --top 4
    woodshed sft talks.jsonl --model Qwen/Qwen3-0.6B --held-out 0.1

    A line of the file is {"messages": [...], "tools": [...]} as OpenAI's chat completions take them; every assistant
    message is trained, rendered with the model's chat template. Then use:
    woodshed.Policy("Qwen/Qwen3-0.6B", adapter="runs/sft").
    After Ctrl-C or a crash, run the same command again to resume.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.cli.sft import build, engine_at
    from woodshed.training.sft.dataset import Choice

    build(
        source,
        model=model,
        rank=rank,
        max_model_len=max_model_len,
        chat_template=chat_template,
        choice=Choice(min_score=min_score, top=top),
        engine=engine_at(engine, api_key),
        run_dir=run_dir,
        fresh=fresh,
        track=track,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        held_out=held_out,
        seed=seed,
    ).run()


@app.command()
def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="Python file that defines one `woodshed.Training(...)`.", metavar="FILE.py")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub name or folder of a policy; needs no file.")] = None,
    judge: Annotated[str | None, typer.Option(help="Name of a judge, such as gpt-5-mini.")] = None,
    engine: Annotated[str | None, typer.Option(help="Address of a running engine; default: start one here.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="WOODSHED_API_KEY", help="That engine's key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Check whether a run can work: each check passes, warns or fails, and says what to do.

    Checks the machine, vLLM, the chat template, the tool parser, the LoRA and its log-probabilities, memory, disk and
    the judge. Exits with status 1 if a check fails. Without a file or a model, checks only the engine's environment.

    \b
    woodshed doctor practise.py
    woodshed doctor --model Qwen/Qwen3-0.6B --judge gpt-5-mini
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.cli.doctor import examine, target

    checked = target(file, model=model, judge=judge, url=engine, api_key=api_key)
    raise typer.Exit(examine(checked, as_json=as_json))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    control: Annotated[bool, typer.Option("--control", help="Train once more on shuffled scores.")] = False,
    framework: Annotated[str, typer.Option(help="Framework of the agent: langgraph, crewai or adk.")] = "langgraph",
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/demo.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; overrides the demo's.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start a new run; the one in the folder is renamed.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(help="Serve and train on a Ray cluster: auto, its address, or local for one started here."),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="vLLM servers of the policy.")] = 1,
    trainers: Annotated[int, typer.Option(min=1, help="Processes that share each training step.")] = 1,
) -> None:
    """Watch a small agent learn on this machine: real vLLM, no GPU, no key, no network.

    The demo's small judge was trained on labels of the demo's tasks and replaces, offline, the LLM judge you would
    use. Only its scores enter training.
    """
    from woodshed.cli.demos import load_demo

    load_demo()(
        framework=framework,
        seed=seed,
        control=control,
        run_dir=run_dir,
        steps=steps,
        fresh=fresh,
        ray=ray,
        replicas=replicas,
        trainers=trainers,
    )


@engine_app.command()
def install(
    upgrade: Annotated[bool, typer.Option("--force", help="Delete and recreate the environment.")] = False,
    unsloth: Annotated[bool, typer.Option("--unsloth", help="Include Unsloth, for training on an NVIDIA GPU.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Include Ray, for an engine on the nodes of a cluster.")] = False,
) -> None:
    """Create the engine environment: torch, transformers, peft and vLLM for this machine (CPU or CUDA)."""
    from woodshed.engine.client.provision import install as provision

    provision(force=upgrade, unsloth=unsloth, ray=ray)
