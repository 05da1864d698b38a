"""A run's folder as a training leaves it: two steps, an evaluation, a group that was set aside, and scores."""

from __future__ import annotations

import json
from pathlib import Path

from builders import asked, call, said, trajectory

from woodshed.training.run.store import RunStore
from woodshed.types import Failure, Judgement, Message, ModelCall, Score, Trajectory

LAMPS = Message(role="user", content="How many lamps?")
SYSTEM = Message(role="system", content="Count.")


def counted(rollout_id: str, answer: str) -> Trajectory:
    """A rollout of two calls: the model looks, and tells."""
    seen = (SYSTEM, LAMPS, asked("look", '{"item":"lamps"}'), Message(role="tool", content="7", tool_call_id="c1"))
    calls = (
        _at(1.0, call(asked("look", '{"item":"lamps"}'), call_id=f"{rollout_id}-a", messages=(SYSTEM, LAMPS))),
        _at(2.0, call(said(answer), call_id=f"{rollout_id}-b", messages=seen, prompt_ids=(1, 2, 3, 7, 8, 9))),
    )
    return trajectory(rollout_id, *calls)


def _at(started_s: float, made: ModelCall) -> ModelCall:
    return made.model_copy(update={"tokens": made.tokens.model_copy(update={"started_s": 1_760_000_000 + started_s})})


def write_run(folder: Path) -> Path:
    """Write the run and return its folder."""
    store = RunStore(folder)
    settings = {"policy": {"model": "tiny"}, "scenarios": 1}
    store.claim(settings, rollout={"name": "answer", "file": None})
    store.save_trajectory("0/s/0", counted("r0", "7 lamps"))
    store.save_trajectory("0/s/1", counted("r1", "8 lamps"))
    store.save_trajectory("1/a/b/0", counted("r2", "seven"))
    failed = trajectory("r3", failed=Failure(kind="RolloutTimeout", message="300 s"))
    store.save_trajectory("1/a/b/1", failed)
    store.save_trajectory("10/s/0", counted("r5", "7"))
    store.save_trajectory("before/h/0", counted("r4", "none"))
    store.save_trajectory("aside-3/2/s/0", counted("old", "7"))
    scores = (Score(rollout_id="r0", value=0.75, explanation="right"), Score(rollout_id="r1", value=0.25))
    store.save_judgement("0/s", Judgement(scores=scores, judge="j"))
    store.close()
    return folder


def lines(path: Path) -> list[dict[str, object]]:
    """The lines of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
