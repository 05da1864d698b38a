"""A long attempt is cut where it hurts least, and what was cut is said in its place."""

from __future__ import annotations

import re

from builders import TOOLS, asked, call, said, trajectory
from hypothesis import given
from hypothesis import strategies as st

from woodshed.rewards.prompt import PromptSettings, transcripts
from woodshed.rewards.transcript import Block
from woodshed.rewards.truncate import cut_middle, truncated
from woodshed.types import Failure, Message, ToolCall, Trajectory

BUDGET = 2_000


def block(text: str, role: str = "assistant", is_error: bool = False) -> Block:
    return Block(role=role, text=text, is_error=is_error)


def test_what_fits_is_shown_as_it_is() -> None:
    assert truncated([block("one"), block("two")], BUDGET) == "one\ntwo"


def test_beginning_end_and_errors_stay_and_each_gap_is_said() -> None:
    blocks = [block(f"step {n:03d} " + "x" * 80, role=("assistant", "tool")[n % 2]) for n in range(100)]
    blocks[50] = block("tool look: no such table", role="tool", is_error=True)

    text = truncated(blocks, BUDGET)

    lines = text.splitlines()
    assert lines[0].startswith("step 000")
    assert lines[-1].startswith("step 099")
    assert "tool look: no such table" in lines
    gaps = [line for line in lines if line.startswith("[…")]
    assert len(gaps) == 2
    cut = sum(int(n) for n in re.findall(r"\[… (\d+) messages", text))
    assert cut + len(lines) - len(gaps) == len(blocks)
    assert re.fullmatch(
        r"\[… \d+ messages cut here: \d+ (tool|assistant), \d+ (tool|assistant); \d+ characters …\]", gaps[0]
    )


def test_one_huge_message_loses_its_middle_only() -> None:
    text = truncated([block("question"), block("a" * 50_000 + "END", role="tool"), block("answer")], BUDGET)

    assert text.startswith("question\naaa")
    assert text.endswith("END\nanswer")
    assert "[… 49503 characters cut …]" in text


@given(
    st.lists(st.builds(block, st.text(max_size=300), is_error=st.booleans()), min_size=1, max_size=30),
    st.integers(50, 800),
)
def test_it_fits_and_the_last_message_is_there(blocks: list[Block], budget: int) -> None:
    text = truncated(blocks, budget)

    notes = sum(len(m) for m in re.findall(r"\[… [^\]]*…\]", text))
    assert len(text) - notes <= budget + len(blocks)
    assert text.endswith(blocks[-1].text[-4:] if blocks[-1].text else "")


def test_cut_middle_counts_what_it_cut() -> None:
    assert cut_middle("abcdefghij", 6) == "abcd[… 4 characters cut …]ij"
    assert cut_middle("abc", 3) == "abc"


def long_attempt(rollout_id: str, failed: bool) -> Trajectory:
    """Forty lookups; the twentieth raises."""
    messages = [Message(role="user", content="Count the lamps.")]
    calls = []
    for n in range(40):
        wish = asked("look", f'{{"item": "{rollout_id}{n}"}}', id=f"c{n}")
        calls.append(call(wish, call_id=f"{rollout_id}-{n}", messages=messages, tools=TOOLS))
        result = "the shelf fell over" if n == 20 else "lamp " * 40
        messages = [*messages, wish, Message(role="tool", content=result, tool_call_id=f"c{n}")]
    calls.append(call(said("Many."), call_id=f"{rollout_id}-end", messages=messages, tools=TOOLS))
    made = trajectory(rollout_id, *calls)
    error = Failure(kind="OSError", message="fell") if failed else None
    return made.model_copy(
        update={"tool_calls": (ToolCall(tool_call_id="c20", name="look", arguments={}, error=error),)}
    )


def test_an_error_is_known_by_the_tool_that_raised() -> None:
    told = transcripts(
        [long_attempt("a", True), long_attempt("b", False)], PromptSettings(rubric="", attempt_chars=BUDGET)
    )

    assert "the shelf fell over" in told.attempts[0]
    assert "the shelf fell over" not in told.attempts[1]
    assert told.is_cut == (True, True)
    assert all(text.endswith("assistant: Many.") for text in told.attempts)
