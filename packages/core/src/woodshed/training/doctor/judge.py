"""Check the judge: does it answer, and does it prefer an obviously good answer to an obviously bad one?"""

from __future__ import annotations

from woodshed.rewards.base import Reward
from woodshed.rewards.blend import Blend
from woodshed.rewards.prepare import prepared
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
    """Check that an LLM judge gives a usable verdict and prefers the good answer."""
    reward, tables = await prepared(reward)
    if isinstance(reward, Blend):
        reward = next((part for _, part in reward.parts if isinstance(part, Ruler)), reward)
    if not isinstance(reward, Ruler):
        return passed("judge", f"{type(reward).__name__} is not an LLM judge; nothing to check")
    judgement = await reward.judge_group((_good(), _bad()))
    if judgement.error is not None:
        return failed(
            "judge",
            f"{reward.name!r} gave no verdict: {judgement.error.message}",
            "check its name, address and key, try Ruler(mode='auto'), or name another: Ruler(judge=...)",
        )
    scores = {s.rollout_id: s.value for s in judgement.scores}
    scores_text = f"{reward.name!r} scores a good answer {scores['good']:.2f} and a bad one {scores['bad']:.2f}"
    scores_text += "".join(f"; of its modes {t.mode!r} is best" for t in tables if t.judge == reward.name)
    if scores["good"] > scores["bad"]:
        return passed("judge", scores_text)
    return warned(
        "judge",
        scores_text,
        "a run learns only from its ranking: try Ruler(mode='auto'), which asks a weak judge in the way it answers "
        "best (`woodshed judge-check` prints how), use a stronger judge, or improve the rubric",
    )


def _good() -> Trajectory:
    tool_call, tool_result = _LOOKED_UP
    first = _call("good-1", (_QUESTION,), tool_call)
    last = _call("good-2", (_QUESTION, tool_call, tool_result), Message(role="assistant", content=_GOOD))
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
