"""An engine for SFT whose loss falls by a tenth with every step, without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from woodshed.engine.client.adapter_files import NEEDED
from woodshed.types import AdapterFiles, Imported, OpenPolicy, PolicyState, StepReport, StepRequest, StoredFile

FILE = b"{}"
SLOW = "the trainer's forward mode is 'rows', not the fastest one"


class SftEngine:
    """In place of `Engine.local()` and of the client it gives."""

    url = "http://engine"

    def __init__(self) -> None:
        self.version = 0
        self.steps: list[str] = []

    @asynccontextmanager
    async def running(self, *_: Any, **__: Any) -> AsyncIterator[SftEngine]:
        yield self

    async def open_policy(self, policy: OpenPolicy) -> PolicyState:
        """Nothing is kept of it; its trainer warns of what is slow."""
        return PolicyState(name=policy.name, version=self.version, warnings=(SLOW,))

    async def import_session(self, example: Any) -> Imported:
        return Imported(rollout_id=example.rollout_id, tokens=10)

    async def step(self, name: str, request: StepRequest) -> StepReport:
        loss = 2.0 - self.version / 10
        if is_training := request.objective == "supervised":
            self.version += 1
            self.steps.append(request.step_id)
        metrics = {"nll": loss, "trained_tokens": 10.0, "grad_norm": 0.5, "learning_rate": 1e-4}
        return StepReport(step_id=request.step_id, version=self.version, trained=is_training, metrics=metrics)

    async def adapter_files(self, name: str, ref: Any) -> AdapterFiles:
        digest = hashlib.sha256(FILE).hexdigest()
        files = tuple(StoredFile(name=name, size=len(FILE), sha256=digest) for name in NEEDED)
        return AdapterFiles(version=self.version, files=files)

    @asynccontextmanager
    async def adapter_file(self, *_: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        async def parts() -> AsyncIterator[bytes]:
            yield FILE

        yield parts()


def conversations(folder: Path, count: int = 4) -> Path:
    file = folder / "talks.jsonl"
    talk = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
    file.write_text("".join(json.dumps({"messages": talk}) + "\n" for _ in range(count)))
    return file
