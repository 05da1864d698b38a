"""Starts the ranks of a policy as torchrun does: `python -m woodshed.engine.trainer.launch`, by `process.Trainer`.

It runs torch's own agent for one machine: if a rank ends, however it ends, the others are ended and so is this process,
and whoever waits for an answer sees the pipe close. All ranks inherit that pipe; the first one reads and writes it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from woodshed.engine.trainer.lifeline import die_with_parent
from woodshed.engine.trainer.worker_protocol import LAUNCHER, MEETING

_MEETINGS = "ranks"


def main() -> None:
    """Run `sys.argv[1]` ranks for the policy whose folder is `sys.argv[2]`, until the parent `sys.argv[3]` is done."""
    count, home, parent = int(sys.argv[1]), Path(sys.argv[2]).absolute(), int(sys.argv[3])
    die_with_parent(parent)
    with suppress(FileNotFoundError):
        shutil.rmtree(home / _MEETINGS)  # of a launcher that was killed
    meeting = Path(tempfile.mkdtemp(dir=_made(home / _MEETINGS)))
    os.environ |= {LAUNCHER: str(os.getpid()), MEETING: str(meeting / "ranks")}
    # Ranks on one machine talk over loopback, whatever its name resolves to.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=meeting.name,
        # They meet in a file: torch's store would listen on all interfaces, without a key.
        rdzv_backend="c10d",
        rdzv_endpoint=str(meeting / "agent"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        # The engine starts it again: it also knows which step to send again.
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "woodshed.engine.trainer.worker")
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        sys.exit(_end(rank, count, failure))
    finally:
        shutil.rmtree(meeting, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _end(rank: int, count: int, failure: ProcessFailure) -> str:
    """Return how the first rank to end has ended, for the log's last line."""
    how = f"exit status {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"signal {signal.Signals(-failure.exitcode).name}"
    return f"trainer {rank + 1} of {count} (process {failure.pid}) ended with {how}; so the others were ended, too"


if __name__ == "__main__":
    main()
