"""What the pages show is what runs: Python, commands, JSON and TOML."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from woodshed.cli.app import app

sys.path.insert(0, str(Path(__file__).parent))

from markdown_page import PAGES, ROOT, Block, blocks


def python_blocks(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language == "python"]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_every_python_block_compiles(page: Path) -> None:
    for block in python_blocks(page):
        compile(block.text, f"{page}:{block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_the_python_blocks_of_a_page_name_what_exists_and_run_in_order(page: Path, tmp_path: Path) -> None:
    runs = [b for b in python_blocks(page) if b.not_run is None]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "run_blocks.py"), str(page)],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
        env={
            **os.environ,
            "OPENAI_API_KEY": "none",
            "WOODSHED_ENGINE_PYTHON": str(tmp_path / "no-engine-here"),  # what would start one stops at EngineMissing
            "CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_DISABLE_TRACKING": "true", "OTEL_SDK_DISABLED": "true",
            "CREWAI_STORAGE_DIR": str(tmp_path / "crewai"),
        },
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(runs)} blocks ran"


def test_a_block_is_run_unless_the_page_says_why_not() -> None:
    unsaid = [f"{named(p)}:{b.line}" for p in WITH_PYTHON for b in python_blocks(p) if b.not_run == ""]

    assert unsaid == []


def lines(block: Block) -> Iterator[str]:
    """Yield the commands of a block, those over several lines as one."""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        if block.language == "bash" or line.startswith("$ "):
            yield line.removeprefix("$ ").strip()


COMMANDS = [
    pytest.param(command, id=f"{named(page)}:{block.line}: {command}"[:120])
    for page in PAGES
    for block in blocks(page)
    if block.language in ("bash", "console", "shell", "sh")
    for command in lines(block)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_the_program_takes(command: str) -> None:
    words = shlex.split(command, comments=True)
    if not words:
        return
    words = [w for w in words if w not in ("&&",)]
    program = Path(words[0]).name
    if program == "woodshed":
        parse(words[1:])
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {w for w in words[1:] if "=" not in w} <= {*targets, "-j2"}
    elif program in ("python", "python3.11") and words[1:2] and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists() or words[1] in ("practise.py", "agent.py")


def parse(words: list[str]) -> None:
    """Parse a command line with the program's own parser; nothing is run."""
    command: click.Command = typer.main.get_command(app)
    parent = None
    while True:
        try:
            context = command.make_context(command.name or "woodshed", list(words), parent=parent)
        except click.exceptions.Exit:  # --version, --help
            return
        except click.UsageError as error:
            raise AssertionError(f"{' '.join(words)}: {error.format_message()}") from error
        if not isinstance(command, click.Group):
            return
        left = [*context._protected_args, *context.args]
        name, found, words = command.resolve_command(context, left)
        assert found is not None, name
        command, parent = found, context


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_json_and_toml_blocks_can_be_read(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "jsonl":
            assert all(json.loads(line) for line in block.text.splitlines())
        elif block.language == "toml":
            tomllib.loads(block.text)
