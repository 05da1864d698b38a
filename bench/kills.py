"""The kill matrix: what is left of a training when any of its processes is killed at any point (`kill -9`).

    python bench/kills.py [--folder FOLDER] [--json FILE] [--trainers 2]

One training of the demo's tiny world, on the real vLLM of this machine, is killed again and again: at each point, each
process that does something then. It is started again with the same command wherever it ended. A point is reached by
observing what is stored and what the engine says; what must not move meanwhile is held still (SIGSTOP), looked at, and
let go after the kill. At the end the engine's checkpoint must report each step once, with each rollout in one step; the
optimizer must have counted as many updates; the judge must never have been asked for a verdict that it had given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from killing import points
from killing.child import GROUPS, HELD_OUT, MEMBERS
from killing.judge import GatedJudge
from killing.life import ClientEnded, Life
from killing.processes import kill, orphans, release, tree
from killing.truth import optimizer_updates, steps_trained_once

_on_ray = partial(points.having, replicas=2, trainers=2, engine="ray")
MATRIX: list[tuple[str, Callable[[Life], points.Held], tuple[str, ...]]] = [
    ("starting", points.starting, ("client", "gateway", "fork server")),
    ("writing config", points.writing_config, ("client",)),
    ("evaluating before", points.evaluating("before"), ("client", "vLLM")),
    ("sampling", points.sampling, ("client", "gateway", "vLLM", "fork server")),
    ("judging", points.judging, ("client", "gateway")),
    ("idle", points.idle, ("vLLM", "fork server", "trainer")),
    ("judged, no step yet", points.judged, ("client", "gateway")),
    ("trainer's step", points.stepping, ("client", "gateway", "trainer")),
    ("writing checkpoint", points.writing_checkpoint, ("client", "gateway", "trainer")),
    ("swapping LoRA", points.swapping, ("client", "gateway", "vLLM")),
    ("sampling, 2 replicas", points.having(points.sampling, replicas=2), ("replica",)),
    ("swapping LoRA, 2 replicas", points.having(points.swapping, replicas=2), ("replica", "gateway")),
    (
        "trainer's step, 2 trainers",
        points.having(points.stepping, trainers=2),
        ("trainer", "second trainer", "launcher"),
    ),
    ("sampling, on Ray", _on_ray(points.sampling), ("client", "gateway", "raylet", "replica")),
    ("swapping LoRA, on Ray", _on_ray(points.swapping), ("gateway", "replica")),
    ("trainer's step, on Ray", _on_ray(points.stepping), ("client", "trainer", "second trainer", "launcher")),
    ("evaluating after", points.having(points.evaluating("after")), ("gateway",)),
]
STEPS = 43
_SAMPLED = (
    *("judging", "idle", "judged, no step yet", "trainer's step", "writing checkpoint", "swapping LoRA"),
    *("swapping LoRA, 2 replicas", "trainer's step, 2 trainers", "swapping LoRA, on Ray", "trainer's step, on Ray"),
)
"""Points at which the step in hand is sampled: it can be finished once the judge's gate is open."""
_ENDS_WITHIN_S = 60.0


@dataclass
class Row:
    """One kill."""

    point: str
    process: str
    step: int
    survived: bool
    """Whether the client went on by itself."""
    paid_twice: int
    orphans: int
    gone_s: float
    resumed_s: float | None
    """From the kill until the work in hand then is finished; None where it was killed again before."""
    trained_once: bool = False
    failed: int = 0
    """Rollouts of that step or evaluation that did not come to their end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to train; a temporary folder otherwise")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    parser.add_argument("--only", nargs="*", help="points, or POINT/PROCESS, to kill at; all otherwise")
    parser.add_argument("--trainers", type=int, default=1, help="processes that share each step, at least")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="woodshed-kills-"))
    began = time.monotonic()
    with GatedJudge() as judge:
        life = Life(folder / "run", STEPS, judge, asked.trainers)
        try:
            rows = [
                _killed(life, name, reach, process)
                for name, reach, targets in MATRIX
                for process in targets
                if not asked.only or {name, f"{name}/{process}"} & {*asked.only}
            ]
            whole = _finish(life, rows)
        finally:
            _end(life)
    _print(rows, life, judge, whole, time.monotonic() - began)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    good = whole and not judge.paid_twice and all(row.trained_once and not row.orphans for row in rows)
    good = good and not any(row.failed for row in rows if row.process in ("vLLM", "replica"))
    if good and not asked.folder:
        shutil.rmtree(folder)
    sys.exit(0 if good else f"not every promise was kept; see {folder}")


def _killed(life: Life, name: str, reach: Callable[[Life], points.Held], process: str) -> Row:
    """Reach a point, kill a process there, and start the training again where that ended it."""
    if life.client is None:
        life.start()
    held = reach(life)
    target, client, step = life.process(process), life.client, life.step()
    assert target is not None and client is not None, f"{process} does not run while {name}"
    before, twice, stored = tree(client), life.judge.paid_twice, life.stored()
    kill(target)
    clock = time.monotonic()
    for pid, group in held:
        release(pid, group=group)
    if process == "client":
        _ended(life)
    left, gone_s = orphans(before, life.client)
    if process in ("gateway", "raylet") or name == "starting":
        life.judge.open()  # a client that waits for its judge meets the dead engine only afterwards
        _ended(life)
    if life.client is None:
        life.judge.forget_waiting()
    resumed_s = None
    goes_on = life.client is not None
    if name != "starting":  # there the next kill comes first, to save a start
        goes_on = _resumed(life, _goal(life, name, step, stored), is_open=name in _SAMPLED) and goes_on
        resumed_s = time.monotonic() - clock
    life.judge.open(False)
    print(f"{name:26} {process:14} step {step + 1:2}  {resumed_s or 0:5.1f} s  {', '.join(left)}", flush=True)
    return Row(name, process, step, goes_on, life.judge.paid_twice - twice, len(left), gone_s, resumed_s)


def _goal(life: Life, name: str, step: int, stored: int) -> Callable[[], bool]:
    """Return what is to come true after a kill: that the work in hand then is finished."""
    if name in _SAMPLED:
        return lambda: life.step() > step
    if name.startswith("sampling"):
        return lambda: life.rollouts(step) == GROUPS * MEMBERS
    if name.startswith("evaluating "):
        # Two were in flight; the one after them is sampled after the kill.
        group = name.removeprefix("evaluating ")
        enough = min(life.rollouts(group) + 3, HELD_OUT * MEMBERS)
        return lambda: life.rollouts(group) >= enough
    return lambda: life.stored() > stored or life.judge.waiting > 0


def _resumed(life: Life, goal: Callable[[], bool], *, is_open: bool) -> bool:
    """Wait for the goal, with as many new starts as it takes; return whether the client went on without one."""
    goes_on = True
    while True:
        if life.client is None:
            goes_on = False
            life.judge.forget_waiting()
            life.start()
        life.judge.open(is_open)
        with suppress(ClientEnded):
            life.wait(goal, "what was in hand at the kill is finished")
            return goes_on


def _ended(life: Life) -> None:
    """Wait until the client has ended, by the kill or because it cannot go on without what was killed."""
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while life.client is not None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the client neither ended nor went on within {_ENDS_WITHIN_S:.0f} s")
        time.sleep(0.02)


def _finish(life: Life, rows: list[Row]) -> bool:
    """Let the run come to its end, and return whether it is whole."""
    if life.client is None:
        life.start()
    life.judge.open()
    life.wait(lambda: life.client is None or life.fact("finished"), "the run is finished", every_s=0.1, alive=False)
    once = steps_trained_once(life)
    for row in rows:
        row.trained_once = once[min(row.step, life.steps - 1)]
        row.failed = life.failed(row.point.removeprefix("evaluating ") if "evaluating" in row.point else row.step)
    summary = json.loads((life.folder / "summary.json").read_text())
    updates = optimizer_updates(life)
    print(f"optimizer updates {updates}, steps {summary['steps']}, trained once {sum(once.values())} of {life.steps}")
    return bool(
        all(once.values())
        and updates == [summary["trained_steps"]] == [life.versions()[-1]]
        and summary["steps"] == life.steps
    )


def _end(life: Life) -> None:
    if life.client is not None:
        kill(life.client)
        _ended(life)


def _print(rows: list[Row], life: Life, judge: GatedJudge, whole: bool, seconds: float) -> None:
    print(
        "\n| point | process | client goes on | trained once | paid twice | failed rollouts | orphans | gone s | "
        "resumed s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.point} | {row.process} | {'yes' if row.survived else 'started again'} | "
            f"{'yes' if row.trained_once else 'NO'} | {row.paid_twice} | {row.failed} | {row.orphans} | "
            f"{row.gone_s:.1f} | {'' if row.resumed_s is None else f'{row.resumed_s:.1f}'} |"
        )
    print(
        f"\n{len(rows)} kills, {life.starts} starts, {judge.verdicts} verdicts, {judge.paid_twice} paid twice; the run "
        f"is {'complete' if whole else 'NOT COMPLETE'}; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
