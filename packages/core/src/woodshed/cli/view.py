"""`woodshed view` and `woodshed show`: a run in a browser, and in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_RUNS = typer.Argument(help="Folders of runs; without one, those in ./runs, the newest first.", metavar="[RUN]...")


def view(
    runs: Annotated[list[Path] | None, _RUNS] = None,
    port: Annotated[
        int | None, typer.Option(help="Port on this machine.", show_default="a free one", min=1, max=65535)
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Begin with all runs beside each other.")] = False,
) -> None:
    """Look at a run in a browser, while it goes on or afterwards: what the agent did, what the judge made of it.

    \b
    woodshed view                              the newest run in ./runs
    woodshed view runs/demo
    woodshed view runs/a runs/b --compare

    Reads the run's folder and changes nothing in it. The page is served to this machine only, at an address with a
    secret. Ctrl-C ends it.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.view.serve import chosen_runs, serve

    console = Console(soft_wrap=True, highlight=False)
    try:
        serve(
            chosen_runs(runs or []),
            port=port,
            browser=not no_browser,
            compare=compare,
            say=lambda line: console.print(line, markup=False),
        )
    except KeyboardInterrupt:  # that is how it ends
        raise typer.Exit from None


def show(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    step: Annotated[int | None, typer.Option(help="Show one step's groups; 1 is the first.", min=1)] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Show the best attempt of the step, or of the last one.")
    ] = False,
    worst: Annotated[bool, typer.Option("--worst", help="Show the worst attempt beside or instead of it.")] = False,
) -> None:
    """Print a run: its figures and steps; with --step a step's groups; with --best or --worst what an attempt did.

    \b
    woodshed show runs/demo
    woodshed show runs/demo --step 3 --best --worst
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.view.reader import RunReader
    from woodshed.view.terminal import print_attempts, print_run, print_step

    reader, console = RunReader(run), Console(highlight=False)
    if best or worst:
        print_attempts(reader, console, step=step, best=best, worst=worst)
    elif step is not None:
        print_step(reader, console, step)
    else:
        print_run(reader, console)
