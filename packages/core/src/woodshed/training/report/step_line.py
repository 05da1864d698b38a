"""What is printed of one step: its fields, on one line or as many as a narrow terminal needs, and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from woodshed.rewards.base import Reward
from woodshed.rewards.ruler import Ruler

JUDGED = "judge's score"
_INDENT = "           "


def score_name(reward: Reward) -> str:
    """Return what the scores of a run are called: those of a judge, or any other reward."""
    return JUDGED if isinstance(reward, Ruler) else "reward"


def step_fields(row: Mapping[str, Any], *, steps: int, scored: str, left_s: float | None) -> list[str]:
    """Return the fields of a step's line: `scored` names the score, `left_s` are the seconds the run still takes."""
    reward = "-" if row["reward"] is None else f"{row['reward']:.3f}"
    counts = {
        "masked": row["masked"],
        "unjudged groups" if scored == JUDGED else "groups without reward": row["unjudged_groups"],
        "stale groups": row["stale_groups"],
        "further groups": row["extra_groups"],
    }
    return [
        f"step {row['step'] + 1:>{len(str(steps))}}/{steps}",
        f"{scored} {reward}",
        f"LoRA v{row['version']}" + ("" if row["trained"] else " (nothing to train)"),
        f"{row['rollouts']} rollouts in {row['rollout_s']:.1f} s ({row['tokens_per_s']:.0f} tokens/s)",
        f"trained in {row['train_s']:.1f} s",
        *(f"{name} {count}" for name, count in counts.items() if count),
        *([] if left_s is None else [f"{duration(left_s)} left"]),
    ]


def wrapped(fields: Sequence[str], width: int | None) -> str:
    """Return fields two blanks apart, on lines of at most `width` characters; None puts all of them on one line."""
    lines = [fields[0]]
    for text in fields[1:]:
        if width is None or len(lines[-1]) + 2 + len(text) <= width:
            lines[-1] += f"  {text}"
        else:
            lines.append(_INDENT + text)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a rough time, such as `about 40 s`, `about 12 min` or `about 3.5 h`."""
    if seconds < 90:
        return f"about {max(round(seconds / 5) * 5, 5)} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


@dataclass(slots=True)
class Eta:
    """How long the run still takes, by the steps of this life so far, with what was evaluated between them."""

    started_s: float | None = None
    done: int = 0

    def rollouts_started(self) -> None:
        """Begin to count, with the first rollout."""
        self.started_s = self.started_s or time.monotonic()

    def step_done(self, left: int) -> float | None:
        """Return the seconds that `left` more steps take; None if there is nothing to tell it by, or none is left."""
        if self.started_s is None:
            return None  # a step of an earlier life
        self.done += 1
        return (time.monotonic() - self.started_s) / self.done * left if left else None
