"""vLLM as it runs on a GPU: an engine core that is spawned, and in it the GPU's model runner and sampler.

Neither is what a CPU gets by default. Here both run on one: the core because it is asked for, the model runner because
its Triton kernels are interpreted.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import interpreted_triton
import psutil
import pytest
import pytest_asyncio
from shop import POLICY, RunningEngine, models, question

from woodshed.engine import Engine
from woodshed.engine.vllm.processes import tree
from woodshed.training.doctor.weights import probe

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

RUNNERS = {"cpu": "", "gpu": "Using V2 Model Runner"}
SAMPLING = {"temperature": 0.7, "max_tokens": 8}


@pytest_asyncio.fixture(params=list(RUNNERS), scope="module", loop_scope="module")
async def spawned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningEngine]:
    """Run an engine whose vLLM spawns its engine core; `gpu` with the GPU's model runner in it."""
    folder = tmp_path_factory.mktemp(f"core-{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        patch.setenv("VLLM_LOGGING_LEVEL", "INFO")
        if request.param == "gpu":
            patch.setenv("PYTHONPATH", str(interpreted_triton.write(folder / "path")))
            patch.setenv("TRITON_INTERPRET", "1")
            patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
        async with Engine.local(python=sys.executable).running([models()[0]], folder / "home") as client:
            assert RUNNERS[request.param] in (folder / "home/logs/policy.log").read_text()
            yield RunningEngine(client=client, home=folder / "home")


# That the engine has started says that the patches have an effect: it tries them with its first call.
async def test_a_spawned_core_samples_the_policy_that_is_trained_before_and_after_a_step(
    spawned: RunningEngine,
) -> None:
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in tree(spawned.server()["pid"])]
    await spawned.client.open_policy(POLICY)
    before = await probe(spawned.client, "policy", SAMPLING)
    version = (await spawned.train_step("first", rollouts=2)).version
    after = await probe(spawned.client, "policy", SAMPLING)

    # Python tracks what a process that it spawns, and none that it forks, may leave behind.
    assert any("EngineCore" in line for line in lines) and any("resource_tracker" in line for line in lines)
    assert version == 1
    for report in (before, after):
        assert report.metrics["trained_tokens"] >= 2
        assert report.metrics["logprob_drift_fresh"] < 1e-3


async def test_a_spawned_core_goes_on_from_recorded_tokens(spawned: RunningEngine) -> None:
    asked = question()["messages"]
    async with spawned.session(sampling=SAMPLING) as session:
        first = await session.ask()
        turn = first.choices[0].message.model_dump(exclude_none=True)
        await session.ask(messages=[*asked, turn, {"role": "user", "content": "And the Lute?"}])
        first_call, second_call = (await session.seal()).calls

    done = first_call.prompt_ids + first_call.completions[0].token_ids
    assert second_call.continued_from == first_call.call_id
    assert second_call.prompt_ids[: len(done)] == done


async def test_a_killed_server_takes_its_spawned_core_along(spawned: RunningEngine) -> None:
    leader, *rest = tree(spawned.server()["pid"])
    psutil.Process(leader).kill()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in rest if psutil.pid_exists(pid)], timeout=30)

    assert rest and not alive
