"""Run an `ExportJob` in the engine's environment, in a process of its own: torch never comes into this one."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from woodshed.engine.client.engine_process import engine_environment
from woodshed.engine.client.provision import engine_python
from woodshed.errors import ExportError
from woodshed.types import ExportJob, ExportReport

_LOG_LINES = 20
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


def run_job(job: ExportJob, progress: Callable[[str], None]) -> ExportReport:
    """Merge and write as the job says.

    Raises:
        EngineMissing: The engine environment is not installed on this machine.
        ExportError: It could not be done; carries the reason.
    """
    python = engine_python()
    with tempfile.TemporaryDirectory() as aside, (Path(aside) / "log").open("w+") as log:
        file = Path(aside) / "job.json"
        file.write_text(job.model_dump_json())
        command = [str(python), "-m", "woodshed.engine.export", str(file)]
        environment = engine_environment(python) | _QUIET
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process:
            try:
                told = _follow(process, progress)
            except BaseException:
                process.kill()
                raise
        if "report" in told:
            return ExportReport.model_validate(told["report"])
        if "error" in told:
            raise ExportError(str(told["error"]))
        log.seek(0)
        last = "\n".join(log.read().splitlines()[-_LOG_LINES:])
        killed = " (out of memory? it takes 8 bytes a weight)" if process.returncode == -9 else ""
        raise ExportError(f"the export ended with exit status {process.returncode}{killed}; its last lines:\n{last}")


def _follow(process: subprocess.Popen[str], progress: Callable[[str], None]) -> dict[str, object]:
    told: dict[str, object] = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            told = json.loads(line)
            if "progress" in told:
                progress(str(told["progress"]))
    return told
