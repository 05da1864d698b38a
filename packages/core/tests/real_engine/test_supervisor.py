"""vLLM servers that die, engines that are killed, engines that cannot start."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from shop import POLICY, TOOLS, WEIGHTS, RunningEngine, is_alive, kill, models

from woodshed import Policy
from woodshed.engine import Engine, EngineClient, ServedModel
from woodshed.engine.vllm.processes import tree
from woodshed.errors import ConfigError, EngineError, EngineMissing, EngineUnreachable
from woodshed.testing.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("victim", ["server", "core"])
async def test_calls_survive_a_vllm_that_is_killed(engine: RunningEngine, victim: str) -> None:
    await engine.client.open_policy(POLICY)
    version = (await engine.train_step(f"before-{victim}")).version
    before, failed = await engine.restarts(), (await engine.client.health()).failed_calls
    async with engine.session() as session:
        asking = [
            asyncio.create_task(session.ask(tools=TOOLS, max_tokens=600, extra_body={"ignore_eos": True}))
            for _ in range(6)
        ]
        await engine.answers_a_later_call()
        assert not any(task.done() for task in asking)
        leader = engine.server()["pid"]
        kill(leader if victim == "server" else tree(leader)[1])
        answers = await asyncio.gather(*asking)
        sealed = await session.seal()

    health = await engine.client.health()
    assert all(answer.choices for answer in answers)
    assert [call.error for call in sealed.calls] == [None] * 6
    # The adapter is loaded again before any call is let through.
    assert {v for call in sealed.calls for v in call.completions[0].weight_versions} == {version}
    assert await engine.restarts() == before + 1
    assert health.failed_calls == failed


async def test_health_says_what_runs(engine: RunningEngine) -> None:
    health = await engine.client.health()

    assert [(model.name, model.ready, model.vllm) for model in health.models] == [
        ("policy", True, "0.32.0"),
        ("judge", True, "0.32.0"),
    ]
    assert health.rss_mb >= sum(model.rss_mb for model in health.models) > 0


STARTER = """
    import asyncio, signal, sys
    from pathlib import Path
    from woodshed.engine import Engine, ServedModel

    # A shell that runs the tests in the background has SIGINT ignored, also for everything they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    async def main():
        model = ServedModel(name="policy", path=sys.argv[1], trainable=True)
        async with Engine.local(python=sys.executable).running([model], Path(sys.argv[2])) as client:
            print(client.url, client.api_key, flush=True)
            await asyncio.sleep(1000)

    asyncio.run(main())
"""


def start_elsewhere(tmp_path: Path) -> subprocess.Popen[str]:
    """Start an engine from a process of its own and return that process."""
    script = tmp_path / "starter.py"
    script.write_text(textwrap.dedent(STARTER))
    command = [sys.executable, str(script), str(WEIGHTS), str(tmp_path / "home")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return a folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["parent", "engine", "fork_server", "interrupt"])
async def test_nothing_is_left_when_one_of_them_is_killed(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder))
    starter = start_elsewhere(tmp_path)
    try:
        assert starter.stdout is not None
        url, key = (await asyncio.to_thread(starter.stdout.readline)).split()
        starter_pid, engine_pid, *rest = tree(starter.pid)
        assert url.startswith("http://127.0.0.1:") and len(rest) >= 3
        if victim == "interrupt":
            starter.send_signal(2)
        elif victim == "fork_server":
            kill(next(pid for pid in rest if b"fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()))
            # The engine starts another, and vLLM in it.
            async with EngineClient(url, key) as client:

                async def started_again() -> bool:
                    model = (await client.health()).models[0]
                    return model.ready and model.restarts == 1

                def is_importing() -> bool:
                    return any(pid not in rest for pid in tree(engine_pid)[1:])

                await eventually(is_importing, "another fork server was started", every_s=0.01)
                # Calls and swaps wait from now on; they would fail at a port where nobody listens.
                assert not (await client.health()).models[0].ready
                await eventually(started_again, "vLLM was started again and is ready", 240, every_s=0.5)
            rest = [*rest, *tree(engine_pid)]
            kill(engine_pid)
        else:
            kill(starter_pid if victim == "parent" else engine_pid)
        everyone = {engine_pid, *rest}
        await eventually(lambda: not any(is_alive(pid) for pid in everyone), f"{everyone} have ended", 30)
        left = [path for path in short_folder.rglob("*") if path.is_socket() or path.name.startswith("woodshed-")]
        assert left == []
    finally:
        starter.kill()
        starter.communicate()


async def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} on 127.0.0.1 is taken"):
            async with Engine.local(python=sys.executable, port=port).running(models(), tmp_path):
                pass


async def test_a_model_that_vllm_cannot_load_fails_with_the_logs_last_lines(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(WEIGHTS, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps(config | {"architectures": ["NoSuchModel"], "model_type": "nothing"})
    )
    with pytest.raises(EngineError, match=r"(?s)vLLM for 'policy' could not start.*policy\.log.*nothing"):
        async with Engine.local(python=sys.executable).running(
            [ServedModel(name="policy", path=str(broken))], tmp_path / "home"
        ):
            pass


async def test_an_unknown_model_folder_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder '/no/such/model'"):
        async with Engine.local(python=sys.executable).running(
            [ServedModel(name="policy", path="/no/such/model")], tmp_path
        ):
            pass

    assert not list(tmp_path.iterdir())


async def test_a_missing_engine_environment_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WOODSHED_ENGINE_PYTHON", raising=False)
    monkeypatch.setenv("WOODSHED_ENGINE_HOME", str(tmp_path / "engine"))
    with pytest.raises(EngineMissing, match="woodshed engine install"):
        async with Engine.local().running(models(), tmp_path):
            pass


async def test_connecting_checks_that_the_models_are_served(engine: RunningEngine) -> None:
    async with Engine.connect(engine.client.url, api_key=engine.client.api_key).running(models()) as client:
        assert client.url == engine.client.url
    with pytest.raises(EngineError, match=r"serves \['judge', 'policy'\], not \['third'\]"):
        async with Engine.connect(engine.client.url, api_key=engine.client.api_key).running(
            [ServedModel(name="third", path=str(WEIGHTS))]
        ):
            pass
    asked = Policy("Qwen/Qwen2.5-3B-Instruct", max_model_len=64, tool_call_parser="llama3_json").served()
    with pytest.raises(ConfigError) as refused:
        async with Engine.connect(engine.client.url, api_key=engine.client.api_key).running([asked]):
            pass
    assert [line.split(":")[0] + line.split(" is ")[0] for line in str(refused.value).splitlines()[1:-1]] == [
        "  policy  policy: model", "  policy  policy: max_model_len", "  policy  policy: tool_call_parser",
    ]  # fmt: skip
    with pytest.raises(EngineUnreachable, match=r"127\.0\.0\.1:9"):
        async with Engine.connect("http://127.0.0.1:9").running():
            pass


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/chat/completions", "/tokenize", "/health", "/metrics"])
async def test_vllms_own_port_answers_nobody_without_the_key_of_this_start(engine: RunningEngine, path: str) -> None:
    server = engine.server()
    async with httpx.AsyncClient(trust_env=False) as stranger:
        without = await stranger.post(server["url"] + path, json={})
        wrong = await stranger.post(server["url"] + path, json={}, headers={"authorization": "Bearer x"})
        right = await stranger.post(server["url"] + path, json={}, headers={"authorization": f"Bearer {server['key']}"})

    assert (without.status_code, wrong.status_code) == (401, 401)
    assert right.status_code != 401


async def test_keys_are_in_no_list_of_processes_and_all_ports_are_on_loopback(engine: RunningEngine) -> None:
    (starter,) = {psutil.Process(engine.server()["pid"]).parent()}
    whole = [starter.parent(), *starter.parent().children(recursive=True)]
    argv = "\n".join(" ".join(process.cmdline()) for process in whole)
    files = [engine.home / name for name in ("servers.json", "engine.json", "engine.sqlite")]

    assert "woodshed.engine" in argv
    assert engine.client.api_key not in argv and engine.server()["key"] not in argv
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    listening = {c.laddr.ip for p in whole for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


async def test_an_engine_of_ones_own_wants_the_key_that_its_client_has(engine: RunningEngine) -> None:
    body = {"model": "policy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    async with httpx.AsyncClient(base_url=engine.client.url, trust_env=False) as page:
        refused = [await page.post("/v1/chat/completions", json=body), await page.get("/woodshed/v1/health")]
        key = {"authorization": f"Bearer {engine.client.api_key}"}
        answered = await page.post("/v1/chat/completions", json=body, headers=key)

    assert [reply.status_code for reply in refused] == [401, 401]
    assert answered.status_code == 200
