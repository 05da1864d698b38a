"""Promises of an engine elsewhere: a run's LoRA comes home over HTTP, with the key, and the logs can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import woodshed
from woodshed.cli.app import app
from woodshed.engine import Engine, EngineClient
from woodshed.engine.client.adapter_files import fetch_adapter
from woodshed.errors import EngineError
from woodshed.testing import in_order, say
from woodshed.testing.conformance.engine import SCRIPTED_LOSS, GatewayEngine
from woodshed.training.run.store import RunStore
from woodshed.types import AdapterRef, OpenPolicy

pytestmark = pytest.mark.slow
MODEL = Path(__file__).parents[3] / "tiny_world/src/woodshed_tiny_world/weights/policy"
KEY = "the-key"


@pytest.fixture(scope="module")
def engine(needs_engine: None) -> Iterator[GatewayEngine]:
    engine = GatewayEngine(MODEL, api_key=KEY).start()
    yield engine
    engine.close()


async def ask(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(model="any", messages=[{"role": "user", "content": question}])


def length(trajectory: woodshed.Trajectory) -> float:
    return float(sum(len(m.token_ids) for c in trajectory.calls for m in c.tokens.completions))


async def train(engine: GatewayEngine, folder: Path, steps: int = 1, **settings: Any) -> woodshed.Run:
    engine.vllm.play(in_order(*[say("x"), say("xx")] * steps))
    return await woodshed.train_async(
        woodshed.Training(
            rollout=woodshed.rollout(ask),
            scenarios=["How many lamps?"],
            policy=woodshed.Policy(str(MODEL)),
            reward=woodshed.FunctionReward(length),
            engine=Engine.connect(engine.url, api_key=KEY),
            config=woodshed.TrainConfig(
                steps=steps, group_size=2, scenarios_per_step=1, max_staleness=0, loss=SCRIPTED_LOSS
            ),
            run_dir=folder,
            checks=False,
            **settings,
        )
    )


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


async def test_a_run_has_its_lora_in_its_own_folder_and_keeps_it(engine: GatewayEngine, tmp_path: Path) -> None:
    run = await train(engine, tmp_path / "run", steps=2)
    (stored,) = engine.home.glob("policies/policy/*/checkpoints/00002/adapter")
    again = await train(engine, tmp_path / "run", steps=2)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = await train(engine, tmp_path / "moved", steps=2)

    assert run.adapter == tmp_path / "run/adapters/00002"
    assert run.summary.last_adapter == str(run.adapter)
    assert again.adapter == run.adapter
    assert moved.adapter == tmp_path / "moved/adapters/00002"
    assert weights(moved.adapter) == weights(stored)


async def test_the_engine_gives_a_runs_lora_though_another_run_holds_the_policy(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    run = await train(engine, tmp_path / "run")
    store = RunStore(tmp_path / "run")
    async with EngineClient(engine.url, KEY) as client:
        await client.open_policy(OpenPolicy(name="policy", run_id="other", loss=SCRIPTED_LOSS))
        version = await fetch_adapter(client, "policy", store.run_id(), None, tmp_path / "fetched")
        with pytest.raises(EngineError, match=r"keeps no checkpoint of version 7 of run .*it has \[0, 1\]"):
            await client.adapter_files("policy", AdapterRef(run_id=store.run_id(), version=7))
        with pytest.raises(EngineError, match="no checkpoint of policy 'policy' for run 'unknown'"):
            await client.adapter_files("policy", AdapterRef(run_id="unknown"))
    store.close()

    assert run.adapter is not None
    assert version == 1
    assert weights(tmp_path / "fetched") == weights(run.adapter)


async def test_a_checkpoint_that_was_damaged_on_the_engine_is_not_taken_for_the_lora(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    await train(engine, tmp_path / "run")
    store = RunStore(tmp_path / "run")
    (stored,) = engine.home.glob(f"policies/policy/{store.run_id()}/checkpoints/00001/adapter")
    bytes_ = bytearray(weights(stored))
    bytes_[-1] ^= 1
    (stored / "adapter_model.safetensors").write_bytes(bytes_)
    async with EngineClient(engine.url, KEY) as client:
        with pytest.raises(EngineError, match="the checkpoint on the engine's machine is damaged"):
            await fetch_adapter(client, "policy", store.run_id(), 1, tmp_path / "fetched")
    store.close()

    assert not (tmp_path / "fetched").exists()


def test_nothing_is_given_without_the_key_nor_from_outside_the_checkpoints(
    engine: GatewayEngine, tmp_path: Path
) -> None:
    engine.open_policy("mine")
    root = f"{engine.url}/woodshed/v1"
    place = f"{root}/policies/policy/runs/mine/adapters/0"
    with httpx.Client(trust_env=False) as stranger:
        refused = [
            stranger.get(f"{place}/adapter_config.json").status_code,
            stranger.post(f"{root}/policies/policy/adapter_files", json={"run_id": "mine"}).status_code,
            stranger.post(f"{root}/logs", json={}).status_code,
        ]
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {KEY}"}) as friend:
        given = friend.get(f"{place}/adapter_config.json")
        strange = [
            friend.get(f"{place}/{name}").status_code
            for name in ("..%2Fstate.pt", "..%2F..%2F..%2F..%2F..%2F..%2Fengine.json", "%2Fetc%2Fpasswd", "none.json")
        ]
        strange += [
            friend.get(f"{root}/policies/{policy}/runs/{run}/adapters/0/adapter_config.json").status_code
            for policy, run in (("..%2Fpolicies%2Fpolicy", "mine"), ("policy", "..%2Fpolicy%2Fmine"), ("policy", "%2E"))
        ]

    assert refused == [401] * 3
    assert hashlib.sha256(given.content).digest() == hashlib.sha256(_config(engine)).digest()
    assert strange == [404] * 7


def _config(engine: GatewayEngine) -> bytes:
    return (engine.home / "policies/policy/mine/checkpoints/00000/adapter/adapter_config.json").read_bytes()


def test_the_ends_of_the_logs_are_shown(engine: GatewayEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.open_policy("logged")
    (engine.home / "logs").mkdir(exist_ok=True)
    (engine.home / "logs" / "mine.log").write_text("".join(f"line {k}\n" for k in range(50)))
    app(["engine", "logs", "--engine", engine.url, "--api-key", KEY, "--lines", "2"], standalone_mode=False)

    shown = capsys.readouterr().out
    assert "== mine.log\nline 48\nline 49\n" in shown
    assert "== trainer-policy.log\n" in shown
