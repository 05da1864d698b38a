"""A judge's one-label reply → the mean value of its labels, weighted by their probabilities if the server gives them.

The mean of a judge's distribution agrees better with people than its most likely label: https://arxiv.org/abs/2503.03064
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from woodshed.chat.model import Answer, LikelyToken

Labels = Mapping[str, float]
"""Label, such as `7` or `A` → its value, 0 to 1."""

_LEAST_MASS = 0.5
"""Probability that all labels must have together in the place of the first word, for their distribution to count."""
_LEAD = "answer|attempt|best|better|choice|final|grade|is|json|option|score|the"
_DECORATION = " \t\n\r*`\"'▁Ġ"
_ENDS = re.compile(r"\s*(?:$|\n|[:;)*`\]\"}]|\.(?!\d)|-\s)")
"""What may follow a label; anything else makes it a part of a sentence or of another number."""
_MAX_CHARACTERS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelReply:
    """A judge's one-label reply after parsing."""

    value: float | None
    """Mean value, 0 to 1; None if the reply is not usable."""
    problems: tuple[str, ...] = ()


def read_label(answer: Answer, labels: Labels) -> LabelReply:
    """Return the mean value of the reply's label, or why the reply is not usable.

    The label may stand in JSON, after words such as `Score:`, or before an explanation. A reply that names two labels,
    or none, is not usable: nothing is guessed.

    Args:
        answer: the judge's reply.
        labels: the labels asked for.
    """
    value = _mean_value(answer.tokens, labels)
    if value is not None:
        return LabelReply(value=value)
    text = answer.text[:_MAX_CHARACTERS].rpartition("</think>")[2].strip()
    label = _label_in(text, labels)
    if label is None:
        shown = "is empty" if not text else f"is {text[:80]!r}{' …' if len(text) > 80 else ''}"
        return LabelReply(value=None, problems=(f"the reply {shown}; expected one of {', '.join(labels)}, alone",))
    return LabelReply(value=labels[label])


def label_schema(labels: Labels) -> dict[str, Any]:
    """Return the JSON Schema of a reply, for judges that are functions: `{"answer": LABEL}`."""
    return {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(labels)}},
        "required": ["answer"],
        "additionalProperties": False,
    }


def _mean_value(tokens: Sequence[LikelyToken], labels: Labels) -> float | None:
    """Return the mean over the first word's tokens; None without probabilities, or where few of them are of labels."""
    thought = "".join(t.text for t in tokens).rpartition("</think>")
    length = len(thought[0]) + len(thought[1])
    ends = list(accumulate(len(t.text) for t in tokens))
    place = next((n for n, t in enumerate(tokens) if ends[n] > length and _is_word(t.text)), None)
    if place is None:
        return None
    before, after = ("".join(t.text for t in part) for part in (tokens[:place], tokens[place + 1 :]))
    # In "0.8", "10" and "-3" the digit is not the grade.
    if re.search(r"[-.,\d]$", before) or re.match(r"[.,]?\d|\s*/\s*(?!9\b)\d", after):
        return None
    decision = tokens[place]
    mass = dict.fromkeys(labels, 0.0)
    for text, probability in decision.likely:
        label = text.strip(_DECORATION)
        if label in mass:
            mass[label] += probability
    total = math.fsum(mass.values())
    if not total >= _LEAST_MASS:
        return None
    return math.fsum(p * labels[label] for label, p in mass.items()) / total


def _is_word(token: str) -> bool:
    bare = re.sub(r"[\W_]", "", token).lower()
    return bool(bare) and re.fullmatch(_LEAD, bare) is None


def _label_in(text: str, labels: Labels) -> str | None:
    if (found := _label_of_json(text, labels)) is not None:
        return found
    one = "|".join(map(re.escape, labels))
    match = re.match(
        rf"[\W_]*(?:(?i:{_LEAD})\b[\W_]*)*(?<![-.,])(?P<label>{one})\b(?:\s*/\s*9\b)?(?P<rest>.*)", text, re.DOTALL
    )
    if match is None or not _ENDS.match(match["rest"]):
        return None
    others = set(re.findall(rf"\b(?:{one})\b", match["rest"])) - {match["label"]}
    return None if others else match["label"]


def _label_of_json(text: str, labels: Labels) -> str | None:
    try:
        value = json.loads(text.removeprefix("```json").removeprefix("```").removesuffix("```"))
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    label = str(value).strip()
    return label if label in labels else None
