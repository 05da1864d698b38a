"""woodshed's real engine in a process of its own, whose vLLM is a scripted one: gateway, sessions, store, trainer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from woodshed.capture import Rollout, assemble
from woodshed.capture.recorder import new_id
from woodshed.engine.client.config import EngineConfig, ServedModel
from woodshed.engine.client.engine_process import engine_environment
from woodshed.engine.client.provision import engine_python
from woodshed.engine.trainer.worker_protocol import Replay, Start, Step
from woodshed.errors import ConfigError, EngineError
from woodshed.testing.conformance.upstream import ScriptedVllm, Served
from woodshed.testing.replies import Script
from woodshed.types import (
    EngineHealth,
    Failure,
    LossSettings,
    OpenPolicy,
    OpenSession,
    OptimizerSettings,
    PolicyState,
    SealedSession,
    SessionGrant,
    Status,
    StepReport,
    StepRequest,
    Trajectory,
)

POLICY = "policy"
SCRIPTED_LOSS = LossSettings(drift_warn=1e6, drift_stop=1e6)
"""The trainer must not mind that a scripted server's log-probabilities are not the policy's own."""
_ATTACHED = "woodshed.testing.conformance.attached_engine"
_POLICY = OpenPolicy(name=POLICY, optimizer=OptimizerSettings(warmup_steps=0), loss=SCRIPTED_LOSS)


class GatewayEngine:
    """A running engine with the face of a `ScriptedEngine`; `vllm` is the scripted server behind it."""

    def __init__(
        self, model: Path | None, *, sampling: dict[str, Any] | None = None, api_key: str | None = None
    ) -> None:
        """Serve `model` (a folder; None where nothing is to be trained) under the name `policy`."""
        self.api_key = api_key
        self.home = Path(tempfile.mkdtemp(prefix="woodshed-contract-"))
        self.vllm = ScriptedVllm(unscripted)
        self.sampling = {"temperature": 1.0} if sampling is None else sampling
        self.url = ""
        self._model = model or self._empty_model()
        self._process: subprocess.Popen[str] | None = None
        # The engine is on loopback: a proxy of the environment never leads there.
        self._http = httpx.Client(
            trust_env=False, timeout=120.0, headers={"authorization": f"Bearer {api_key}"} if api_key else {}
        )

    def start(self) -> Self:
        """Start the scripted vLLM and the engine before it.

        Raises:
            EngineMissing: the engine environment is not installed.
            EngineError: the engine did not start.
        """
        python = engine_python()
        self.vllm.start()
        config = EngineConfig(
            home=self.home,
            models=(ServedModel(name=POLICY, path=str(self._model), trainable=True),),
            api_key=self.api_key,
            parent_pid=os.getpid(),
        )
        file = self.home / "engine.json"
        file.write_text(config.model_dump_json())
        with (self.home / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", _ATTACHED, "--config", str(file), "--upstream", self.vllm.url],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                env=engine_environment(python),
            )  # fmt: skip
        self.url = self._until_ready()
        return self

    def close(self) -> None:
        """End both, and forget everything."""
        self.vllm.close()
        self._http.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def script(self) -> Script:
        """The function that answers."""
        return self.vllm.script

    @script.setter
    def script(self, script: Script) -> None:
        self.vllm.script = script

    @property
    def requests(self) -> tuple[Served, ...]:
        """Every answered request so far, in order."""
        return tuple(self.vllm.served)

    @property
    def base_url(self) -> str:
        """OpenAI base URL of the gateway."""
        return f"{self.url}/v1"

    def open(self, scenario_id: str = "scenario") -> SessionGrant:
        """Open a session for one rollout."""
        asked = OpenSession(rollout_id=f"{scenario_id}-{new_id()[:8]}", policy=POLICY, sampling=self.sampling)
        return SessionGrant.model_validate(self._post("sessions", asked.model_dump_json()))

    def seal(self, rollout_id: str) -> SealedSession:
        """Close a session and return its calls; a later call is answered 409."""
        return SealedSession.model_validate(self._post(f"sessions/{rollout_id}/seal"))

    def trajectory(self, rollout: Rollout, *, status: Status = "completed", error: Failure | None = None) -> Trajectory:
        """Seal the rollout's session and return its trajectory, both planes joined."""
        return assemble(rollout, self.seal(rollout.rollout_id), status=status, error=error)

    def open_policy(self, run_id: str) -> PolicyState:
        """Start a trainer on the base model for a run of its own."""
        asked = _POLICY.model_copy(update={"run_id": run_id})
        return PolicyState.model_validate(self._post("policies", asked.model_dump_json()))

    def step(self, request: StepRequest) -> StepReport:
        """Take one optimizer step; the next call is answered by the new weights."""
        return StepReport.model_validate(self._post(f"policies/{POLICY}/step", request.model_dump_json()))

    def open_some_policy(self) -> int:
        """Make sure that a trainer runs, whichever run it is for; return the version of the weights."""
        reply = self._http.get(f"{self.url}/woodshed/v1/health")
        policies = EngineHealth.model_validate(reply.json()).policies
        return policies[0].version if policies else self.open_policy("some").version

    def parameters_after(self, requests: Sequence[StepRequest]) -> list[bytes]:
        """Return the adapter's parameters after each of some steps, every one taken from the same fresh start."""
        homes = [Path(tempfile.mkdtemp(dir=self.home, prefix="step-")) for _ in requests]
        lines = [
            Replay(
                start=Start(model_path=str(self._model), home=str(home), policy=_POLICY, parent_pid=os.getpid()),
                step=Step(request=request, sessions={r.rollout_id: self.seal(r.rollout_id) for r in request.rollouts}),
            ).model_dump_json()
            for home, request in zip(homes, requests, strict=True)
        ]
        python = engine_python()
        done = subprocess.run(
            [str(python), "-m", "woodshed.testing.conformance.replay_steps"],
            input="\n".join(lines), capture_output=True, text=True, env=engine_environment(python), check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise EngineError(f"the trainer ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        adapter = Path("checkpoints", "00001", "adapter", "adapter_model.safetensors")
        return [(home / adapter).read_bytes() for home in homes]

    def _post(self, path: str, body: str = "") -> Any:
        reply = self._http.post(f"{self.url}/woodshed/v1/{path}", content=body)
        if reply.status_code != 200:
            raise EngineError(f"the engine answered {path!r} with {reply.status_code}: {reply.text}")
        return reply.json()

    def _until_ready(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "ready" in event:
                return str(event["ready"])
            if "error" in event:
                raise EngineError(str(event["error"]))
        log = (self.home / "engine.log").read_text()[-2000:]
        raise EngineError(f"the engine ended with status {self._process.wait()} before it was ready:\n{log}")

    def _empty_model(self) -> Path:
        """Return a folder that looks like a model to the engine's config; nothing can be trained of it."""
        folder = self.home / "model"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        return folder


def unscripted(request: dict[str, Any]) -> Any:
    """Answer nothing: no test may rely on what another left behind."""
    raise ConfigError("this engine has no script yet; set one")
