"""The judge: whether it answers, and tells an obviously good answer from an obviously bad one."""

from __future__ import annotations

from woodshed.rewards.base import Reward
from woodshed.rewards.blend import Blend
from woodshed.rewards.ruler import Ruler
from woodshed.training.doctor.finding import Finding, failed, passed, warned
from woodshed.types import Completion, Message, ModelCall, TokenCall, ToolRequest, ToolSpec, Trajectory

_QUESTION = Message(role="user", content="How many lamps are left?")
_TOOL = ToolSpec(
    name="get_stock",
    description="How many are left.",
    parameters={"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
)
_LOOKED_UP = (
    Message(role="assistant", tool_requests=(ToolRequest(id="c1", name="get_stock", arguments='{"item": "lamp"}'),)),
    Message(role="tool", tool_call_id="c1", content="4"),
)
_GOOD, _BAD = "There are 4 lamps left.", "Go away."


async def check_judge(reward: Reward) -> Finding:
    """Check that an LLM judge gives a verdict that can be used, and that it is the right way round."""
    if isinstance(reward, Blend):
        reward = next((part for _, part in reward.parts if isinstance(part, Ruler)), reward)
    if not isinstance(reward, Ruler):
        return passed("judge", f"{type(reward).__name__} is no LLM judge; it is not asked")
    judgement = await reward.judge_group((_good(), _bad()))
    if judgement.error is not None:
        return failed(
            "judge",
            f"{reward.name!r} gave no verdict: {judgement.error.message}",
            "check its name, address and key, or name another: Ruler(judge=...)",
        )
    scores = {s.rollout_id: s.value for s in judgement.scores}
    said = f"{reward.name!r} scores a good answer {scores['good']:.2f} and a bad one {scores['bad']:.2f}"
    if scores["good"] > scores["bad"]:
        return passed("judge", said)
    return warned("judge", said, "its ranking is all that a run learns from: name a stronger judge, or mend the rubric")


def _good() -> Trajectory:
    asked, told = _LOOKED_UP
    first = _call("good-1", (_QUESTION,), asked)
    last = _call("good-2", (_QUESTION, asked, told), Message(role="assistant", content=_GOOD))
    return Trajectory(rollout_id="good", scenario_id="doctor", calls=(first, last))


def _bad() -> Trajectory:
    only = _call("bad-1", (_QUESTION,), Message(role="assistant", content=_BAD))
    return Trajectory(rollout_id="bad", scenario_id="doctor", calls=(only,))


def _call(call_id: str, messages: tuple[Message, ...], answer: Message) -> ModelCall:
    completion = Completion(
        index=0, message=answer, token_ids=(), logprobs=(), weight_versions=(), finish_reason="stop"
    )
    tokens = TokenCall(
        call_id=call_id, started_s=0.0, latency_s=0.0, messages=messages, tools=(_TOOL,), completions=(completion,)
    )
    return ModelCall(tokens=tokens)
