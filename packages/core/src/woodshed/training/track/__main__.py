"""The process of one tracker: `python -m woodshed.training.track NAME FOLDER`; what it says is JSON, one line each.

It reads the run's folder and nothing else, so whatever a tracker's package does, no rollout waits for it. It ends when
its standard input does: with the run, or with the process that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from woodshed.training.track.feed import Feed
from woodshed.training.track.tracker import Opened, Tracker

_EVERY_S = 1.0
_AGAIN_S = 15.0
"""Seconds after which a tracker that failed is tried again."""
_CLASSES: Mapping[str, str] = {
    "wandb": "Wandb",
    "mlflow": "Mlflow",
    "tensorboard": "Tensorboard",
    "trackio": "Trackio",
}


def main(name: str, folder: Path, say: int) -> int:
    """Send until the run ends, then what is left; return 1 if something could not be sent."""
    feed: Feed | None = None
    failed: str | None = None
    tried = -_AGAIN_S
    parent = os.getppid()
    while True:
        is_over = _is_over(parent)
        if is_over or failed is None or time.monotonic() - tried >= _AGAIN_S:
            tried = time.monotonic()
            try:
                feed = feed or Feed(name, _tracker(name), folder, lambda opened: _say_opened(say, opened))
                feed.finish() if is_over else feed.send()
                if failed is not None and not is_over:
                    _say(say, event="again")
                failed = None
            except Exception as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if failed is None:
                    _say(say, event="failed", why=why)
                failed = why
        if is_over:
            return 0 if failed is None else 1


def _is_over(parent: int) -> bool:
    """Wait a little, and return whether the run has ended, or the process that runs it."""
    ready, _, _ = select.select([0], [], [], _EVERY_S)
    return (bool(ready) and not os.read(0, 1024)) or os.getppid() != parent


def _tracker(name: str) -> Tracker:
    module = importlib.import_module(f"woodshed.training.track.{name}")
    tracker: Tracker = getattr(module, _CLASSES[name])()
    return tracker


def _say_opened(say: int, opened: Opened) -> None:
    _say(say, event="opened", where=opened.where)
    if opened.warning is not None:
        _say(say, event="warning", why=opened.warning, where=opened.where)


def _say(say: int, **event: Any) -> None:
    try:
        os.write(say, json.dumps(event).encode() + b"\n")
    except BrokenPipeError:
        pass  # the run's process is gone; what is left is sent all the same


if __name__ == "__main__":
    # What a tracker's package prints goes to its log, which is standard error.
    channel = os.dup(1)
    os.dup2(2, 1)
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), channel))
