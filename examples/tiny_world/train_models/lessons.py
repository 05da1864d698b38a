"""Training examples of the tiny judge: woodshed's real request about a group, the right reply, targets for layers."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attempts import VERDICTS, Attempt, level_of, reply_text, trajectory, translated
from dialects import Dialect
from transformers import PreTrainedTokenizerBase

from woodshed.rewards.prompt import PromptSettings, attempt_ids, build_prompt, default_rubric
from woodshed_tiny_world import Level, Scenario, Shop
from woodshed_tiny_world.scenarios import WISHES


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One training example: a judged group as tokens, and its targets (position → token)."""

    ids: list[int]
    reply: dict[int, int]
    answers: dict[int, int]
    """The part of the reply that needs judgement: the verdict, at each letter of the reply."""
    verdicts: dict[int, int]
    """The verdict, at the letter in each attempt's closing tag."""
    letters: dict[int, int]
    """The letter itself, at those letters and at the reply's, so that the model can match the two."""
    checks: dict[int, int]
    """The verdict so far, at each word that decides about an attempt."""
    wanted: dict[int, int]
    """The word that belongs there, before each such word."""


class Encoder:
    """Turns judged groups into training examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keep the tokenizer."""
        self.tokenizer = tokenizer
        self.verdicts = {level: self._verdict(level) for level in VERDICTS}

        calls = {w: self.ids(f'>\nassistant calls {w}({{"item": "') for w in WISHES}
        self.call_of = {w: ids[0] for w, ids in calls.items() if len(ids) == 1}
        self.calls = set(self.call_of.values())
        assert len(self.calls) == len(WISHES), calls

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _verdict(self, level: Level) -> int:
        return self.ids(reply_text(["A"], [level]))[2]

    def prompt(self, scenario: Scenario, attempts: Sequence[Attempt], salt: str, dialect: Dialect) -> str:
        """Return the judge's request about these attempts, as the engine renders it."""
        shown = [trajectory(scenario, a, str(i), dialect) for i, a in enumerate(attempts)]
        asked = build_prompt(
            shown, order=range(len(shown)), settings=PromptSettings(rubric=default_rubric()), salt=salt
        )
        chat = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def lesson(
        self,
        scenario: Scenario,
        attempts: Sequence[Attempt],
        shop: Shop,
        salt: str,
        dialect: Dialect,
        *,
        with_reply: bool = True,
    ) -> Lesson:
        """Return a group of one framework's agent, with the right reply."""
        attempts = [translated(a, dialect, shop) for a in attempts]
        levels = [level_of(scenario, a, shop) for a in attempts]
        text = self.prompt(scenario, attempts, salt, dialect)
        prompt = self.ids(text)
        reply = self.ids(reply_text(attempt_ids(len(attempts)), levels) + "<|im_end|>") if with_reply else []
        ids = prompt + reply
        blocks = self._blocks(text, len(attempts))
        checks: dict[int, int] = {}
        wanted: dict[int, int] = {}
        for block, attempt in zip(blocks, attempts, strict=True):
            for begin, end, level, word in checkpoints(text[block.begin : block.end], scenario, attempt):
                checks[block.token_of(block.begin + end - 1)] = self.verdicts[level]
                first = block.token_of(block.begin + begin)
                if word in WISHES and prompt[first] in self.calls:
                    wanted[first - 1] = self.call_of[word]
                elif word and block.starts[first] == block.begin + begin and len(self.ids(word)) == 1:
                    wanted[first - 1] = self.ids(word)[0]
        said = {p: ids[p + 1] for p in range(len(prompt) - 1, len(ids) - 1)}
        answers = {p: token for p, token in said.items() if token in self.verdicts.values()}
        verdicts = {b.closing: self.verdicts[level] for b, level in zip(blocks, levels, strict=True)}
        return Lesson(
            ids=ids,
            reply={p: token for p, token in said.items() if p not in answers},
            answers=answers,
            verdicts=verdicts,
            letters={p: ids[p] for p in (*verdicts, *answers)},
            checks=checks,
            wanted=wanted,
        )

    def _blocks(self, prompt: str, count: int) -> list[Block]:
        """Return where each attempt's text is, in characters and in tokens."""
        spans = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        starts = [begin for begin, _ in spans]
        fence = re.search(r"fence code: (\S+)", prompt)
        assert fence
        found = re.finditer(rf"<attempt ([A-Z]+) {fence[1]}>(.*?)</attempt (\1) {fence[1]}>", prompt, re.DOTALL)
        blocks = [
            Block(begin=m.start(2), end=m.end(2), closing=bisect_right(starts, m.start(3)) - 1, starts=starts)
            for m in found
        ]
        assert len(blocks) == count, prompt
        return blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One attempt's text inside a prompt."""

    begin: int
    end: int
    closing: int
    """Token of the letter in the closing tag."""
    starts: list[int]

    def token_of(self, place: int) -> int:
        """Return the token that holds the character at `place`."""
        return bisect_right(self.starts, place) - 1


def checkpoints(text: str, scenario: Scenario, attempt: Attempt) -> Iterator[tuple[int, int, Level, str | None]]:
    """Yield the words that decide about an attempt: begin, end, the verdict so far, and the word that belongs there.

    Covers the first call and, if it is the only one, the answer. The closing tag carries the verdict on the whole.
    """
    call = re.search(r"calls (\w+)\(\{\"item\": \"(\w+)\"(?:, \"currency\": \"(\w+)\")?", text)
    if not call:
        return
    level = Level.CORRECT if call[1] == scenario.wish else Level.WRONG_TOOL if call[1] in WISHES else Level.BROKEN
    yield call.start(1), call.end(1), level, scenario.wish
    for number, wanted in ((2, scenario.item), (3, scenario.currency)):
        if call[number] and wanted:
            level = Level.WRONG_ARGUMENTS if level is Level.CORRECT and call[number] != wanted else level
            yield call.start(number), call.end(number), level, wanted
    answer = re.search(r"\nassistant: (.*)$", text, re.DOTALL)
    if len(attempt) != 2 or not answer:
        return
    result = (attempt[0].result or "").split()
    known = {scenario.item, *result}
    for word in re.finditer(r"\w+", answer[1]):
        level = Level.WRONG_ANSWER if level is Level.CORRECT and word[0] not in known else level
        wanted = (
            scenario.item if word[0][0].isupper() and len(word[0]) > 3 else result[0] if word[0].isdigit() else None
        )
        yield answer.start(1) + word.start(), answer.start(1) + word.end(), level, wanted
