"""Each of the doctor's checks that needs no engine passes, warns and fails where it should."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import woodshed
from woodshed.errors import EngineError, JudgeError
from woodshed.training.doctor import failing
from woodshed.training.doctor.examine import _softened
from woodshed.training.doctor.finding import Finding, guarded, passed
from woodshed.training.doctor.judge import check_judge
from woodshed.training.doctor.machine import check_disk, check_memory, check_versions
from woodshed.training.doctor.serving import check_endpoints
from woodshed.training.doctor.tool_calls import judge_unread
from woodshed.training.doctor.weights import check_trainer, judge_drift
from woodshed.types import Completion, Gpu, LossSettings, Machine, Message, PolicyState, ReadCalls, Serving

PACKAGES = {
    "woodshed": woodshed.__version__,
    "torch": "2.13.0+cpu",
    "vllm": "0.32.0",
    "transformers": "5",
    "peft": "0.21",
}
HEALTHY = Machine(python="3.11", cores=2, packages=dict(PACKAGES), memory_free_mb=8000, disk_free_mb=90000)
GPU = Gpu(name="a GPU", total_mb=80000, free_mb=60000)
SERVING = Serving(missing_paths=(), stop_ids=(2,), tool_call_parser="hermes", max_model_len=512)


def machine(**changes: Any) -> Machine:
    return HEALTHY.model_copy(update=changes)


def status(finding: Finding) -> tuple[str, bool]:
    """A finding's status, and whether it says what to do."""
    return finding.status, bool(finding.advice)


def test_a_healthy_machine_passes() -> None:
    assert [status(f) for f in (check_versions(HEALTHY), check_memory(HEALTHY), check_disk(HEALTHY, 100))] == [
        ("pass", False)
    ] * 3
    assert "CPU, 2 cores" in check_versions(HEALTHY).found and "vllm 0.32.0" in check_versions(HEALTHY).found


def test_what_is_not_installed_is_named() -> None:
    without = check_versions(machine(packages={**PACKAGES, "peft": None}))
    unequal = check_versions(machine(packages={**PACKAGES, "woodshed": "0.0.1"}))
    slow = check_versions(machine(gpus=(GPU,)))

    assert status(without) == ("fail", True) and "['peft'] are not installed" in without.found
    assert status(unequal) == ("fail", True) and "0.0.1" in unequal.found
    assert status(slow) == ("warn", True) and "a GPU" in slow.found


@pytest.mark.parametrize(("free", "expected"), [(100.0, "fail"), (800.0, "warn"), (4000.0, "pass")])
def test_memory_that_will_not_do_is_said(free: float, expected: str) -> None:
    assert check_memory(machine(memory_free_mb=free)).status == expected


def test_a_gpu_without_room_for_the_trainer_is_said() -> None:
    full = GPU.model_copy(update={"free_mb": 100.0})

    assert status(check_memory(machine(gpus=(full,)))) == ("warn", True)
    assert check_memory(machine(gpus=(full, GPU))).status == "pass"


@pytest.mark.parametrize(("free", "expected"), [(1000.0, "fail"), (4000.0, "warn"), (9000.0, "pass")])
def test_checkpoints_that_do_not_fit_are_said(free: float, expected: str) -> None:
    assert check_disk(machine(disk_free_mb=free), adapter_mb=100).status == expected


def test_a_trainer_that_left_its_fastest_mode_says_why() -> None:
    fast = PolicyState(name="p", version=0, forward_mode="tree")
    slow = fast.model_copy(
        update={"forward_mode": "rows", "warnings": ("'tree' cannot be used: no kernel; 3× slower",)}
    )

    assert status(check_trainer(fast)) == ("pass", False) and "'tree'" in check_trainer(fast).found
    assert status(check_trainer(slow)) == ("warn", True) and "no kernel; 3× slower" in check_trainer(slow).found


def test_an_endpoint_that_is_missing_is_named() -> None:
    found = check_endpoints(SERVING.model_copy(update={"missing_paths": ("/v1/load_lora_adapter",)}))

    assert check_endpoints(SERVING).status == "pass"
    assert status(found) == ("fail", True) and "/v1/load_lora_adapter" in found.found


@pytest.mark.parametrize(("drift", "expected"), [(0.001, "pass"), (0.1, "warn"), (0.4, "fail"), (float("nan"), "fail")])
def test_drift_is_judged_by_the_runs_own_limits(drift: float, expected: str) -> None:
    assert judge_drift(drift, 24.0, LossSettings()).status == expected


def ruler(good: float, bad: float) -> woodshed.Ruler:
    """A judge that scores an attempt with a look-up `good` and one without `bad`."""

    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        attempts = re.findall(r"<attempt (\w+) .*?>\n(.*?)</attempt", user, re.DOTALL)
        scores = {place: good if "lamps left" in text else bad for place, text in attempts}
        return json.dumps({"scores": [{"id": i, "explanation": "…", "score": v} for i, v in scores.items()]})

    return woodshed.Ruler(judge=judge)


@pytest.mark.parametrize(("good", "bad", "expected"), [(0.9, 0.1, "pass"), (0.1, 0.9, "warn"), (0.5, 0.5, "warn")])
async def test_a_judge_that_cannot_tell_good_from_bad_is_said(good: float, bad: float, expected: str) -> None:
    found = await check_judge(ruler(good, bad))

    assert found.status == expected
    assert f"{good:.2f}" in found.found and f"{bad:.2f}" in found.found


async def test_a_judge_that_gives_no_verdict_fails() -> None:
    async def broken(system: str, user: str, schema: dict[str, Any]) -> str:
        raise JudgeError("out of order")

    found = await check_judge(woodshed.Ruler(judge=broken))

    assert status(found) == ("fail", True) and "out of order" in found.found


async def test_a_reward_that_is_no_judge_is_not_asked() -> None:
    def never(trajectory: woodshed.Trajectory) -> float:
        raise AssertionError("asked")

    assert (await check_judge(woodshed.FunctionReward(never))).status == "pass"


async def test_a_check_that_cannot_be_made_is_a_failure_and_not_the_end() -> None:
    async def broken() -> Finding:
        raise EngineError("vLLM is gone")

    found = await guarded("LoRA swap", broken(), "look at its log")

    assert found == Finding(
        check="LoRA swap", status="fail", found="EngineError: vLLM is gone", advice="look at its log"
    )
    assert failing([found, passed("disk", "fine")]) == [found]


async def test_the_judge_inside_a_blend_is_asked() -> None:
    blend = woodshed.Blend((0.5, ruler(0.1, 0.9)), (0.5, woodshed.FunctionReward(lambda t: 0.0)))

    assert (await check_judge(blend)).status == "warn"


def answered(text: str, finish_reason: str = "stop") -> Completion:
    return Completion(
        index=0, message=Message(role="assistant", content=text), token_ids=(1, 2), logprobs=(0.0, 0.0),
        weight_versions=(0, 0), finish_reason=finish_reason,
    )  # fmt: skip


def unread(text: str, parsers: dict[str, int] | None = None, finish_reason: str = "stop") -> Finding:
    answers = [answered(text, finish_reason)] * 8
    return judge_unread("hermes", answers, ReadCalls(parsers=parsers or {}, texts=(text,) * 8))


def test_the_parser_that_reads_most_calls_is_named_and_of_equals_the_usual_one() -> None:
    found = unread("[f(a=1)]", {"llama4_pythonic": 6, "pythonic": 6, "xlam": 1})

    assert status(found) == ("fail", True)
    assert "0 of 8 sampled answers hold a tool call that 'hermes' reads; 'pythonic' reads 6" in found.found
    assert found.advice == "set Policy.tool_call_parser='pythonic'"


def test_a_model_that_calls_no_tools_fails_and_its_words_are_shown() -> None:
    talk, cut = unread("I would look it up."), unread("<think>Hm", finish_reason="length")

    assert status(talk) == ("fail", True) and status(cut) == ("warn", True)
    assert "0 of 8 sampled answers hold a tool call that any parser reads, such as 'I would look it up.'" in talk.found
    assert "`woodshed sft`" in talk.advice and "Policy.tool_call_parser=None" in talk.advice
    assert "all were cut at their 2 tokens" in cut.found and "thinks first" in cut.advice


def test_before_a_run_a_model_that_called_no_tool_is_a_warning_and_other_failures_stay() -> None:
    silent = _softened(unread("I would look it up."))
    broken = check_endpoints(SERVING.model_copy(update={"missing_paths": ("/tokenize",)}))

    assert status(silent) == ("warn", True) and "any parser reads" in silent.found
    assert _softened(broken) == broken and failing([silent, broken]) == [broken]
