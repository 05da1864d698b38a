"""The doctor on the real engine: what is well passes, what is wrong is found, and a run with it is stopped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

import woodshed
from woodshed.engine import EngineClient, ServedModel
from woodshed.errors import JudgeError
from woodshed.training.doctor import Finding, examine_run, failing, first_step_checks
from woodshed.training.doctor.finding import guarded
from woodshed.training.doctor.serving import check_template, check_tool_parser
from woodshed.training.doctor.tool_calls import _TOOL, _sampled, check_tool_calls
from woodshed.training.doctor.weights import check_drift, check_learning, check_swap, sample
from woodshed.training.run.store import RunStore
from woodshed.types import LossSettings, OpenPolicy, OptimizerSettings, ReadCallsRequest, RenderRequest
from woodshed_tiny_world import policy_path

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]
POLICY = woodshed.Policy(str(policy_path()), max_model_len=256)
OWN: dict[str, Any] = {"optimizer": OptimizerSettings(learning_rate=1e-2, warmup_steps=0)}
# Writes calls as no parser reads them, and hides the tools from a question about Bergen.
ODD_TEMPLATE = (
    "{% if tools and 'Bergen' not in messages[0].content %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ m.role }}<|im_start|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }} with {{ c.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant<|im_start|>{% endif %}"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(needs_engine: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    """One engine: the policy, and the same under a template that no tool parser fits."""
    home = tmp_path_factory.mktemp("engine")
    (home / "odd.jinja").write_text(ODD_TEMPLATE)
    odd = ServedModel(
        name="odd",
        path=POLICY.model,
        max_model_len=256,
        max_num_seqs=4,
        chat_template=str(home / "odd.jinja"),
        tool_call_parser="hermes",
    )
    served = [POLICY.served(), odd]
    async with woodshed.Engine.local().running(served, home) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(engine: EngineClient) -> EngineClient:
    await engine.open_policy(OpenPolicy(name="policy", run_id="probed", **OWN))
    return engine


@woodshed.rollout
async def ask(question: str) -> None:
    here = woodshed.current_rollout()
    assert here is not None
    async with openai.AsyncOpenAI(base_url=here.base_url, api_key=here.secret) as client:
        await client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": question}], max_completion_tokens=4
        )


async def test_the_first_steps_checks_pass_and_are_quick(opened: EngineClient) -> None:
    reward = woodshed.FunctionReward(lambda trajectory: 0.0)
    began = time.perf_counter()

    found = await first_step_checks(opened, "policy", POLICY.sampling(), LossSettings(), reward)

    print(f"\nthe checks before the first step took {time.perf_counter() - began:.2f} s")
    assert found == []
    assert time.perf_counter() - began < 20, "they cost half a second on a quiet machine"


async def test_a_parser_that_does_not_fit_the_template_fails(opened: EngineClient) -> None:
    found = await check_tool_parser(opened, "odd", await opened.serving("odd"))

    assert found.status == "fail"
    assert "is read by 'hermes' as []" in found.found and "Policy.tool_call_parser" in found.advice


async def test_calls_that_the_parser_does_not_read_are_tried_with_all_others(opened: EngineClient) -> None:
    serving = await opened.serving("policy")
    read = await check_tool_calls(opened, "policy", POLICY.sampling(), serving)
    sampled = await _sampled(opened, "policy", {**POLICY.sampling(), "max_tokens": 64})
    tried = ReadCallsRequest(tools=(_TOOL,), answers=tuple(answer.token_ids for answer in sampled))
    others = await opened.read_calls("policy", tried)
    none = await check_tool_calls(
        opened, "policy", POLICY.sampling(), serving.model_copy(update={"tool_call_parser": None})
    )

    assert read.status == none.status == "pass" and "that 'hermes' reads" in read.found
    assert others.parsers["hermes"] == max(others.parsers.values()) > 4
    assert "pythonic" not in others.parsers and "<tool_call>" in others.texts[0]


async def test_a_template_that_hides_the_tools_is_said(opened: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = await opened.serving("odd")
    monkeypatch.setattr(
        "woodshed.training.doctor.serving._USER", {"role": "user", "content": "Is it raining in Bergen?"}
    )

    found = await check_tool_parser(opened, "odd", serving)

    assert found.status == "warn" and "does not tell the model which tools there are" in found.found


async def test_an_answer_that_never_stops_or_is_read_back_otherwise_is_said(opened: EngineClient) -> None:
    serving = await opened.serving("policy")
    talk = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes, take an umbrella."})
    written = (await opened.render("policy", RenderRequest(messages=talk, generation_prompt=False))).token_ids

    endless = await check_template(opened, "policy", serving.model_copy(update={"stop_ids": ()}))
    cut = await check_template(opened, "policy", serving.model_copy(update={"stop_ids": written[-5:-4]}))

    assert endless.status == "warn" and "does not end with a token the model stops at ([])" in endless.found
    assert cut.status == "warn" and "is read back as 'Yes, " in cut.found


async def test_drift_above_the_runs_limit_fails(opened: EngineClient) -> None:
    tight = LossSettings(drift_warn=1e-9, drift_stop=1e-8)
    bent = await check_drift(opened, "policy", {"temperature": 1.0, "top_p": 0.3}, LossSettings(drift_stop=0.06))

    assert (await check_drift(opened, "policy", POLICY.sampling(), LossSettings())).status == "pass"
    assert (await check_drift(opened, "policy", POLICY.sampling(), tight)).status == "fail"
    assert bent.status == "fail", bent.found


async def test_what_cannot_be_measured_is_said_and_why(opened: EngineClient) -> None:
    found = await check_drift(opened, "policy", {"temperature": 0.0}, LossSettings())

    assert found.status == "warn" and "nothing was sampled" in found.found


async def test_a_step_that_is_not_served_fails(opened: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    served = await check_learning(opened, "policy", POLICY.sampling())
    stale = await sample(opened, "policy", POLICY.sampling())

    async def always_stale(*_: Any) -> str:
        return stale

    monkeypatch.setattr("woodshed.training.doctor.weights.sample", always_stale)
    # Two ids are needed for a step of two rollouts; both are of weights before it.
    monkeypatch.setattr("woodshed.training.doctor.weights._PROBES", 1)
    unserved = await check_learning(opened, "policy", POLICY.sampling())

    assert served.status == "pass", served.found
    assert unserved.status == "fail" and "not answered by the new weights" in unserved.advice


async def test_an_adapter_that_vllm_cannot_load_fails(opened: EngineClient) -> None:
    healthy = await check_swap(opened, "policy")
    place = Path((await opened.adapter("policy")).path)
    config = (place / "adapter_config.json").read_text()
    broken = json.dumps(json.loads(config) | {"r": 4096})
    (place / "adapter_config.json").write_text(broken.ljust(len(config))[: max(len(config), len(broken))])

    try:
        found = await guarded("LoRA swap", check_swap(opened, "policy"), "look at the log")
    finally:
        (place / "adapter_config.json").write_text(config)

    assert healthy.status == "pass"
    assert found.status == "fail", found


async def test_a_run_whose_judge_is_out_of_order_stops_before_any_rollout(opened: EngineClient, tmp_path: Path) -> None:
    async def broken(system: str, user: str, schema: dict[str, Any]) -> str:
        raise JudgeError("out of order")

    training = woodshed.Training(
        rollout=ask,
        scenarios=["a", "b"],
        policy=POLICY,
        reward=woodshed.Ruler(judge=broken),
        engine=woodshed.Engine.connect(opened.url, api_key=opened.api_key),
        config=woodshed.TrainConfig(steps=1, group_size=2, **OWN),
        run_dir=tmp_path,
    )
    RunStore(tmp_path).save_fact("run_id", "probed")  # the policy that is open already

    with pytest.raises(woodshed.CheckError, match=r"1 of 10 checks .*\n- judge: .*out of order"):
        await woodshed.train_async(training)

    assert RunStore(tmp_path).trajectory("0/scenario-0/0") is None


async def test_a_policy_that_a_run_has_open_is_left_alone(opened: EngineClient) -> None:
    found: list[Finding] = []

    await examine_run(
        woodshed.Engine.connect(opened.url, api_key=opened.api_key), POLICY, None, LossSettings(), found.append
    )

    assert [f.check for f in found if f.status == "warn"] == ["weights"]
    assert failing(found) == []


async def test_the_command_prints_json_and_fails_where_a_check_does(engine: EngineClient) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from woodshed.cli import main; main()", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    gone = await asyncio.to_thread(run, "--model", POLICY.model, "--engine", "http://127.0.0.1:9", "--json")

    printed = json.loads(gone.stdout)
    assert gone.returncode == 1 and printed["failed"] == 1
    assert printed["findings"][0]["check"] == "engine" and "nothing answers" in printed["findings"][0]["found"]
