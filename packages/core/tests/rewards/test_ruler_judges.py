"""Who a ruler asks: a model, the engine's own, or a function; and when it refuses to."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from builders import call, said, trajectory
from loopback_judge import LoopbackJudge, Reply, Request, attempts_of, fails, grades, says, verdict

from woodshed.capture import Rollout, bind, current_rollout, require_rollout
from woodshed.errors import ConfigError, JudgeRefused
from woodshed.rewards.base import Reward
from woodshed.rewards.blend import Blend
from woodshed.rewards.function import FunctionReward
from woodshed.rewards.judge import Judge
from woodshed.rewards.ruler import Ruler
from woodshed.testing.waiting import eventually
from woodshed.types import Judgement, Trajectory

GOOD, POOR, BAD = "four lamps", "some lamps", "no idea"
HONEST = {GOOD: 0.9, POOR: 0.4, BAD: 0.0}


def answered(rollout_id: str, text: str) -> Trajectory:
    return trajectory(rollout_id, call(said(text)))


GROUP = (answered("good", GOOD), answered("poor", POOR), answered("bad", BAD))


def values(judgement: Judgement) -> dict[str, float]:
    return {s.rollout_id: s.value for s in judgement.scores}


async def test_a_judge_on_the_engine_is_asked_where_the_run_binds_it(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]
    ruler = Ruler("engine/judge")
    with pytest.raises(ConfigError, match=r"'engine/judge' is served by the engine.*ruler.bound"):
        await ruler.judge_group(GROUP)

    judgement = await ruler.bound(base_url=server.base_url, api_key="engine-key").judge_group(GROUP)

    assert values(judgement)["good"] == 0.9
    assert judgement.judge == "engine/judge"
    assert server.requests[0]["model"] == "judge"
    assert server.keys == ["Bearer engine-key"]


async def test_only_a_judge_on_the_engine_is_held_to_short_explanations(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]
    elsewhere = server.judge()

    for judge in ("engine/judge", elsewhere):
        await Ruler(judge, permutations=2).bound(base_url=server.base_url, api_key="engine-key").judge_group(GROUP)

    asked = [r["response_format"]["json_schema"]["schema"]["properties"]["scores"]["items"] for r in server.requests]
    limits = [entry["properties"]["explanation"].get("maxLength") for entry in asked]
    assert limits == [300, 300, None, None]


@pytest.mark.parametrize(
    ("reward", "asks"),
    [
        (Ruler("engine/judge"), True),
        (Ruler(("gpt-5-mini", Judge("engine/judge"))), True),
        (Ruler("gpt-5-mini", escalate_to="engine/judge", permutations=2), True),
        (Blend((1.0, FunctionReward(lambda _: 1.0)), (1.0, Ruler("engine/judge"))), True),
        (Ruler("gpt-5-mini", rubric="Attempts that blame the search engine/judge are poor."), False),
        (FunctionReward(lambda _: 1.0), False),
    ],
)
def test_a_reward_knows_whether_it_needs_the_engine(reward: Reward, asks: bool) -> None:
    assert reward.asks_engine is asks


async def test_an_async_function_judges_and_repairs_like_a_model() -> None:
    asked: list[str] = []

    async def taste(system: str, user: str, schema: dict[str, Any]) -> str:
        asked.append(user)
        ids = schema["properties"]["scores"]["items"]["properties"]["id"]["enum"]
        return "hm" if len(asked) == 1 else verdict({i: float(GOOD in attempts_of(user)[i]) for i in ids})

    judgement = await Ruler(taste).judge_group(GROUP)

    assert values(judgement) == {"good": 1.0, "poor": 0.0, "bad": 0.0}
    assert judgement.judge.endswith("taste")
    assert (judgement.requests, judgement.cost_usd) == (2, None)
    assert asked[1].startswith(asked[0])
    assert "Your earlier reply was:\nhm\n\nYour reply cannot be used:\n- the reply holds no JSON" in asked[1]


async def test_a_judge_function_that_raises_masks_the_group() -> None:
    async def broken(system: str, user: str, schema: dict[str, Any]) -> str:
        raise KeyError("no judge today")

    judgement = await Ruler(broken).judge_group(GROUP)

    assert judgement.error is not None
    assert "broken' raised KeyError: 'no judge today'" in judgement.error.message


async def test_a_judge_function_must_be_async() -> None:
    def plain(system: str, user: str, schema: dict[str, Any]) -> str:
        return "{}"

    with pytest.raises(ConfigError, match="expected an async function that returns str"):
        await Ruler(plain).judge_group(GROUP)  # type: ignore[arg-type]


async def test_a_judges_own_model_calls_are_no_leak_and_not_recorded() -> None:
    """A judge may be built on a hooked framework, and is asked while rollouts are active."""
    seen: list[object] = []

    async def hooked(system: str, user: str, schema: dict[str, Any]) -> str:
        seen.append(require_rollout("a judge's call"))
        return verdict({"A": 1.0, "B": 0.5, "C": 0.0})

    with bind(Rollout(rollout_id="r", scenario_id="s", base_url="http://127.0.0.1:1/v1", secret="x")) as active:
        judgement = await Ruler(hooked).judge_group(GROUP)

        assert seen == [None]
        assert judgement.error is None
        assert current_rollout() is active


async def test_two_rollouts_of_one_id_are_refused(server: LoopbackJudge) -> None:
    with pytest.raises(ConfigError, match="same rollout_id"):
        await Ruler(server.judge()).judge_group([GROUP[0], GROUP[0]])


def test_one_ruler_works_in_one_event_loop_after_another(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST))]
    ruler = Ruler(server.judge())

    for text in ("four lamps!", "four lamps?"):
        judgement = asyncio.run(ruler.judge_group([*GROUP[1:], answered("good", text)]))
        assert values(judgement)["good"] == 0.9


async def test_no_more_requests_are_in_flight_than_allowed(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST), hangs_s=0.05)]
    ruler = Ruler(server.judge(max_concurrency=2))

    await asyncio.gather(*(ruler.judge_group([*GROUP, answered("more", f"{BAD} {n}")]) for n in range(8)))

    assert len(server.requests) == 8
    assert server.busiest == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judge": ""}, "Judge.model is ''"),
        ({"judge": "engine/"}, "Judge.model is 'engine/'"),
        ({"judge": 3}, "expected a model's name, a Judge or an async function"),
        ({"judge": "m", "permutations": 0}, "permutations is 0"),
        ({"judge": "m", "tolerance": 1.5}, "tolerance is 1.5"),
        ({"judge": "m", "rubric": " "}, "rubric is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_construction(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Ruler(**settings)


def test_a_ruler_reads_the_same_in_every_process() -> None:
    async def taste(system: str, user: str, schema: dict[str, Any]) -> str:
        return ""

    assert " at 0x" not in repr(Ruler(taste))
    assert repr(Ruler("gpt-5-mini", rubric="- Short.")) == (
        "Ruler('gpt-5-mini', mode='group', rubric='- Short.', permutations=1, tolerance=0.0, details=(), "
        "max_attempts=16, attempt_chars=24000, window_chars=400000, seed=0)"
    )


async def test_a_draft_in_a_thinking_part_is_not_the_verdict(server: LoopbackJudge) -> None:
    def thought(request: Request) -> Any:
        shown = attempts_of(request["messages"][1]["content"])
        draft, final = verdict(dict.fromkeys(shown, 0.1)), verdict(dict.fromkeys(shown, 0.9))
        return [{"type": "thinking", "thinking": [{"type": "text", "text": draft}]}, {"type": "text", "text": final}]

    server.script = [says(thought)]

    assert set(values(await Ruler(server.judge()).judge_group(GROUP)).values()) == {0.9}


async def test_a_schema_that_the_judge_cannot_take_masks_no_group(server: LoopbackJudge) -> None:
    refusal = fails(400, "The specified schema produces a constraint that has too many states for serving.")
    server.script = [refusal, says(grades(HONEST))]

    judgement = await Ruler(server.judge()).judge_group(GROUP)

    assert judgement.error is None
    assert values(judgement) == {"good": 0.9, "poor": 0.4, "bad": 0.0}


async def test_a_judge_that_refuses_is_said_to_have_refused(server: LoopbackJudge) -> None:
    words = {"role": "assistant", "content": None, "refusal": "I can't grade these."}
    choice = {"index": 0, "finish_reason": "stop", "message": words}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "loopback", "choices": [choice]}
    server.script = [Reply(body=body)]

    judgement = await Ruler(server.judge()).judge_group(GROUP)

    assert judgement.scores == ()
    assert judgement.error is not None
    assert "the judge refused to answer" in judgement.error.message
    assert "I can't grade these." in judgement.error.message


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (fails(401, "bad key"), "answered 401.*bad key.*Check OPENAI_API_KEY"),
        (fails(403, "not yours"), "answered 403"),
        (fails(402, "pay first"), "answered 402"),
        (fails(404, "no such model"), "Check the model's name"),
        (fails(400, "no such model", code="model_not_found"), "answered 400"),
        (fails(429, "pay", type="insufficient_quota"), "no credit left"),
    ],
    ids=["401", "403", "402", "404", "400", "quota"],
)
async def test_a_judge_that_will_always_refuse_ends_the_run_and_is_asked_once(
    server: LoopbackJudge, refusal: Reply, said: str
) -> None:
    server.script = [refusal]

    with pytest.raises(JudgeRefused, match=said):
        await Ruler(server.judge()).judge_group(GROUP)

    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [fails(500), fails(429, "slow"), fails(400)], ids=["500", "429", "400"])
async def test_a_judge_that_fails_for_one_group_does_not_end_the_run(server: LoopbackJudge, reply: Reply) -> None:
    server.script = [reply]

    judgement = await Ruler(server.judge(max_retries=0)).judge_group(GROUP)

    assert judgement.error is not None and judgement.error.kind == "JudgeError"


async def test_a_function_that_passes_a_refusal_on_ends_the_run_too(server: LoopbackJudge) -> None:
    server.script = [fails(401, "bad key")]

    async def judge(system: str, user: str, schema: dict[str, Any]) -> str:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client:
            await client.chat.completions.create(model="m", messages=[{"role": "user", "content": user}])
        return ""

    with pytest.raises(JudgeRefused, match="AuthenticationError"):
        await Ruler(judge).judge_group(GROUP)


async def test_a_refused_judge_ends_the_run_only_after_the_replies_in_flight_are_kept(server: LoopbackJudge) -> None:
    server.script = [says(grades(HONEST), hangs_s=0.5), fails(429, "pay", code="insufficient_quota")]
    ruler = Ruler(server.judge())
    other = (answered("x", GOOD), answered("y", BAD))

    first = asyncio.create_task(ruler.judge_group(GROUP))
    await eventually(lambda: len(server.requests) == 1, "the first group is being judged")
    with pytest.raises(JudgeRefused):
        await ruler.judge_group(other)

    first.cancel()  # as the end of the run does
    again = await ruler.judge_group(GROUP)
    assert (values(again)["good"], again.cached, len(server.requests)) == (0.9, True, 2)


async def test_one_refused_judge_of_a_panel_is_left_out_and_a_majority_ends_the_run(server: LoopbackJudge) -> None:
    async def honest(system: str, user: str, schema: dict[str, Any]) -> str:
        return str(grades(HONEST)({"messages": [{"content": system}, {"content": user}]}))

    async def twin(system: str, user: str, schema: dict[str, Any]) -> str:
        return await honest(system, user, schema)

    server.script = [fails(401, "bad key")]

    assert (await Ruler((honest, twin, server.judge())).judge_group(GROUP)).error is None
    with pytest.raises(JudgeRefused, match="bad key"):
        await Ruler((honest, server.judge())).judge_group(GROUP)
