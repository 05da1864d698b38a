"""Try the wheels as a user gets them: in new environments and a folder outside the checkout, from the wheels alone.

Each adapter is installed and imported without the others; a rollout is recorded as in the first example. Where there is
an engine environment (`$WOODSHED_ENGINE_HOME`, else the checkout's `.engine`), the demo takes one step of training.

Run: make dist, or: python tests/dist/try_wheels.py dist .tools/bin/uv
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADAPTERS = ("langgraph", "crewai", "adk")
TIMEOUT_S = 1800
# Everything public can be imported, nothing of it from the checkout, and no other adapter is there.
ALONE = """
import importlib, importlib.util, sys, woodshed
from importlib.metadata import entry_points
adapter, *others = sys.argv[1:]
for name in woodshed.__all__:
    getattr(woodshed, name)
for module in (woodshed, importlib.import_module("woodshed_" + adapter)):
    assert module.__file__.startswith(sys.prefix), module.__file__
found = {entry.name: entry.load() for entry in entry_points(group="woodshed.adapters")}
assert list(found) == [adapter], found
assert not [other for other in others if importlib.util.find_spec("woodshed_" + other)]
"""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A new virtual environment, and a folder to work in."""

    folder: Path
    uv: Path
    variables: dict[str, str] = field(default_factory=dict)
    """What its programs find in their environment beside what is usual."""

    def __post_init__(self) -> None:
        self._run(str(self.uv), "venv", "-q", "--python", sys.executable, str(self.folder / "venv"))

    def install(self, *what: str | Path) -> None:
        """Install wheels by their path, and what they need from the index."""
        python = self.folder / "venv/bin/python"
        self._run(str(self.uv), "pip", "install", "-q", "--python", str(python), *map(str, what))

    def run(self, program: str | Path, *arguments: str | Path) -> str:
        """Return what a program, of the environment or by its path, prints; end with its output if it fails."""
        return self._run(str(self.folder / "venv/bin" / program), *map(str, arguments), **self.variables)

    def _run(self, *command: str, **variables: str) -> str:
        # Settings of whoever runs this would lead back into the checkout.
        usual = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV") and "WOODSHED" not in k}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=usual | variables,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)!r} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def main(dist: Path, uv: Path) -> None:
    """Try every adapter alone, then the first example and the demo."""
    with tempfile.TemporaryDirectory(prefix="woodshed-wheels-") as folder:
        for adapter in ADAPTERS:
            environment = _made(Path(folder) / adapter, uv)
            environment.install(_wheel(dist, "woodshed"), _wheel(dist, f"woodshed_{adapter}"))
            environment.run("python", "-c", ALONE, adapter, *(other for other in ADAPTERS if other != adapter))
            print(f"woodshed-{adapter}: installed and imported without the other adapters", flush=True)
            if adapter == "langgraph":
                try_commands(environment)
                try_recording(environment)
        try_demo(dist, Path(folder) / "demo", uv)


def try_commands(environment: Environment) -> None:
    """Ask the installed command for its help."""
    for command, said in (([], "engine"), (["view"], "--no-browser")):
        shown = environment.run("woodshed", *command, "--help")
        assert said in shown, shown
    print("woodshed --help, woodshed view --help: shown", flush=True)


def try_recording(environment: Environment) -> None:
    """Run the first example, which is written with langchain."""
    environment.install("langchain")
    shutil.copy(ROOT / "examples/01_record_one_rollout.py", environment.folder)
    shown = environment.run("python", "01_record_one_rollout.py")
    assert "tool stock: 4 left" in shown, shown
    print("examples/01_record_one_rollout.py: a rollout recorded", flush=True)


def try_demo(dist: Path, folder: Path, uv: Path) -> None:
    """Install the demo; with an engine environment, let it take a step, its engine half from the wheel as well."""
    engine = Path(os.environ.get("WOODSHED_ENGINE_HOME", ROOT / ".engine")).absolute() / "bin/python"
    core = _wheel(dist, "woodshed")
    unpacked = folder / "engine_half"
    shutil.unpack_archive(core, unpacked, "zip")
    # An engine that woodshed made itself holds a copy of woodshed. One named by its interpreter takes it from here.
    variables = {"WOODSHED_ENGINE_PYTHON": str(engine), "PYTHONPATH": str(unpacked)} if engine.exists() else {}
    environment = _made(folder, uv, variables)
    environment.install(core, _wheel(dist, "woodshed_langgraph"), _wheel(dist, "woodshed_tiny_world"))
    assert "--steps" in environment.run("woodshed", "demo", "--help")
    if not engine.exists():
        print(f"woodshed demo: NOT tried, as there is no engine environment at {engine}; 'make engine' makes it")
        return
    half = environment.run(engine, "-c", "import woodshed; print(woodshed.__file__)")
    assert half.startswith(str(unpacked)), half
    began = time.monotonic()
    environment.run("woodshed", "demo", "--steps", "1", "--run-dir", "run")
    summary = json.loads((folder / "run/summary.json").read_text())
    assert summary["steps"] == 1, summary
    assert "success" in environment.run("woodshed", "show", "run")
    took = f"{time.monotonic() - began:.0f} s"
    print(f"woodshed demo --steps 1: trained in {took}, client and engine from the wheel")


def _made(folder: Path, uv: Path, variables: dict[str, str] | None = None) -> Environment:
    folder.mkdir(exist_ok=True)
    return Environment(folder=folder, uv=uv.absolute(), variables=variables or {})


def _wheel(dist: Path, module: str) -> Path:
    (wheel,) = dist.absolute().glob(f"{module}-*.whl")
    return wheel


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
