"""Teach the tiny judge to answer étude's real RULER request about this world.

The lesson is spread over the layers, each reading what the one below has found: two layers learn which word should stand at
each deciding place of an attempt, the third whether it does, the fourth what the attempt is worth as a whole (at its closing
tag), and the top one to look the verdicts up and write the reply. The held-out questions are never taught.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from attempts import VERDICTS, Attempt, level_of, reply_text, trajectory
from etude.rewards.prompt import attempt_ids, build_prompt, default_rubric
from etude_tiny_world import Level, Scenario, Shop, held_out_scenarios, judge_path, policy_path, train_scenarios
from etude_tiny_world.scenarios import WISHES
from mistakes import KINDS, right
from sampling import sample_attempts
from tiny_models import learning_rate, new_model, pad_batch, save
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

Pool = dict[tuple[str, int], tuple[Scenario, Shop, list[Attempt]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One judged group as tokens, and what is taught at which position (position → token)."""

    ids: list[int]
    reply: dict[int, int]
    answers: dict[int, int]
    """The part of the reply that needs judgement: at each letter of the reply, the verdict."""
    verdicts: dict[int, int]
    """At the letter in each attempt's closing tag: the verdict."""
    letters: dict[int, int]
    """At the same letters and at those of the reply: the letter itself, so that one can be found by the other."""
    checks: dict[int, int]
    """At each word of an attempt that decides something: the verdict so far."""
    wanted: dict[int, int]
    """Before each such word: the word that should stand there, whatever does."""


class Encoder:
    """Turns texts into tokens, and remembers the parts that return."""

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

    def prompt(self, scenario: Scenario, attempts: Sequence[Attempt], salt: str) -> str:
        """Return the judge's request about these attempts, as the engine renders it."""
        shown = [trajectory(scenario, a, str(i)) for i, a in enumerate(attempts)]
        asked = build_prompt(shown, order=range(len(shown)), rubric=default_rubric(), salt=salt)
        chat = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def lesson(self, scenario: Scenario, attempts: Sequence[Attempt], shop: Shop, salt: str, *, with_reply: bool = True) -> Lesson:
        """Return the group with its right reply."""
        levels = [level_of(scenario, a, shop) for a in attempts]
        text = self.prompt(scenario, attempts, salt)
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
        """Return where each attempt's text lies, in characters and in tokens."""
        spans = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        starts = [begin for begin, _ in spans]
        fence = re.search(r"fence code: (\S+)", prompt)
        assert fence
        found = re.finditer(rf"<attempt ([A-Z]+) {fence[1]}>(.*?)</attempt (\1) {fence[1]}>", prompt, re.DOTALL)
        blocks = [Block(begin=m.start(2), end=m.end(2), closing=bisect_right(starts, m.start(3)) - 1, starts=starts) for m in found]
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
    """Yield the words of an attempt that decide something: begin, end, the verdict so far, and the word that should stand there.

    Only for what the first call and, where it is the only one, the answer decide; the closing tag is judged on the whole.
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
        wanted = scenario.item if word[0][0].isupper() and len(word[0]) > 3 else result[0] if word[0].isdigit() else None
        yield answer.start(1) + word.start(), answer.start(1) + word.end(), level, wanted


def sample_pool(folder: Path, *, draw: random.Random, rounds: int) -> Pool:
    """Return attempts the policy really made at the training questions, at two temperatures."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pool: Pool = {}
    for _ in range(rounds):
        tasks = [(s, draw.randrange(1 << 20)) for s in train_scenarios()]
        shops = {seed: Shop(seed) for _, seed in tasks}
        for temperature in (1.0, 1.0, 1.0, 1.5):
            made = sample_attempts(policy, tokenizer, [(s, shops[seed]) for s, seed in tasks], temperature=temperature)
            for (scenario, seed), attempt in zip(tasks, made, strict=True):
                pool.setdefault((scenario.id, seed), (scenario, shops[seed], []))[2].append(attempt)
    return pool


def draw_group(pool: Pool, keys: Sequence[tuple[str, int]], size: int, draw: random.Random) -> tuple[Scenario, Shop, list[Attempt]]:
    """Return a group as training may meet it: mixed, like the untrained policy, nearly all right, or nearly all of one kind."""
    scenario, shop, real = pool[draw.choice(keys)]
    scene = draw.random()
    kinds, weights = list(KINDS), list(KINDS.values())
    usual = draw.choices(kinds, weights)[0] if scene < 0.75 else right
    attempts = []
    for _ in range(size):
        if scene < 0.5:
            own = draw.random() < 0.3
            attempts.append(draw.choice(real) if own else draw.choices(kinds, weights)[0](scenario, shop, draw))
        else:
            kind = usual if draw.random() < 0.75 else draw.choices(kinds, weights)[0]
            attempts.append(kind(scenario, shop, draw))
    return scenario, shop, attempts


def loss_of(model: Qwen3ForCausalLM, lessons: Sequence[Lesson], pad: int) -> dict[str, torch.Tensor]:
    """Return the three losses of a batch."""
    ids_BT = pad_batch([lesson.ids for lesson in lessons], pad)
    out = model.model(input_ids=ids_BT, use_cache=False, output_hidden_states=True)
    top_BTH = out.last_hidden_state
    below_BTH, lower_BTH, lowest_BTH = (model.model.norm(out.hidden_states[i]) for i in (-2, -3, -4))

    def cross_entropy(hidden_BTH: torch.Tensor, taught: list[dict[int, int]]) -> torch.Tensor:
        places = [(row, p, token) for row, each in enumerate(taught) for p, token in each.items()]
        if not places:
            return hidden_BTH.sum() * 0.0
        row_N, place_N, token_N = (torch.tensor(column) for column in zip(*places, strict=True))
        return F.cross_entropy(model.lm_head(hidden_BTH[row_N, place_N]), token_N)

    return {
        "reply": cross_entropy(top_BTH, [lesson.reply for lesson in lessons]),
        "answers": cross_entropy(top_BTH, [lesson.answers for lesson in lessons]),
        "verdicts": cross_entropy(below_BTH, [lesson.verdicts for lesson in lessons]),
        "letters": cross_entropy(below_BTH, [lesson.letters for lesson in lessons]),
        "checks": cross_entropy(lower_BTH, [lesson.checks for lesson in lessons]),
        "wanted": cross_entropy(lowest_BTH, [lesson.wanted for lesson in lessons]),
    }


WEIGHTS = {"reply": 0.3, "answers": 1.0, "verdicts": 1.0, "letters": 0.4, "checks": 1.0, "wanted": 1.0}


def train(
    encoder: Encoder, pool: Pool, *, steps: int, tokens: int, layers: int, hidden: int, rate: float, seed: int, every: int = 50, alone: float = 0.5
) -> Qwen3ForCausalLM:
    """Return the taught judge: small groups first, then all sizes."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    eos, pad = encoder.tokenizer.eos_token_id, encoder.tokenizer.pad_token_id
    vocabulary = len(encoder.tokenizer)
    model = new_model(vocabulary=vocabulary, layers=layers, hidden=hidden, positions=4096, eos=eos, pad=pad, reach=1e6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    keys = list(pool)
    begun = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rate, step, steps, warmup=50)
        done = step / steps
        size = draw.choice((1, 2, 2, 3) if done < 0.15 else (2, 3, 4, 6) if done < 0.4 else (2, 3, 4, 5, 6, 7, 8, 8, 8))
        lessons: list[Lesson] = []
        while sum(len(lesson.ids) for lesson in lessons) < tokens:
            scenario, shop, attempts = draw_group(pool, keys, size, draw)
            lessons.append(encoder.lesson(scenario, attempts, shop, str(draw.random()), with_reply=done >= alone))
        losses = loss_of(model, lessons, pad)
        loss = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % every == every - 1:
            told = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step + 1}/{steps}  {told}  cpu {time.process_time() - begun:.0f} s", flush=True)
            if step % (4 * every) == 4 * every - 1:
                print(f"  held out: {recall(model, encoder)}", flush=True)
    return model


@torch.no_grad()
def recall(model: Qwen3ForCausalLM, encoder: Encoder, groups: int = 24) -> str:
    """Return how many made-up attempts at held-out questions get the right verdict, by level: at the tag, and in the reply."""
    draw = random.Random(7)
    right_of: dict[Level, list[tuple[bool, bool]]] = {level: [] for level in VERDICTS}
    for _ in range(groups):
        scenario, shop = draw.choice(held_out_scenarios()), Shop(draw.randrange(1 << 20))
        attempts = [k(scenario, shop, draw) for k in draw.choices(list(KINDS), list(KINDS.values()), k=6)]
        lesson = encoder.lesson(scenario, attempts, shop, str(draw.random()))
        out = model.model(input_ids=torch.tensor([lesson.ids]), use_cache=False, output_hidden_states=True)
        marks = list(encoder.verdicts.values())
        tag = model.lm_head(model.model.norm(out.hidden_states[-2][0, list(lesson.verdicts)]))[:, marks].argmax(-1).tolist()
        said = model.lm_head(out.last_hidden_state[0, list(lesson.answers)])[:, marks].argmax(-1).tolist()
        for attempt, mark, word in zip(attempts, tag, said, strict=True):
            level = level_of(scenario, attempt, shop)
            place = list(encoder.verdicts).index(level)
            right_of[level].append((mark == place, word == place))
    return "  ".join(f"{level} {sum(t for t, _ in r)}+{sum(w for _, w in r)}/{len(r)}" for level, r in right_of.items())


def main() -> None:
    """Train and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=2500)
    options.add_argument("--tokens", type=int, default=1800, help="tokens in a batch")
    options.add_argument("--layers", type=int, default=5)
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--rate", type=float, default=2e-3)
    options.add_argument("--rounds", type=int, default=12, help="rounds of sampling the policy for attempts")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--alone", type=float, default=0.4, help="share of the steps before replies are taught")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path, default=judge_path())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    tokenizer = AutoTokenizer.from_pretrained(judge_path())
    pool = sample_pool(policy_path(), draw=random.Random(chosen.seed + 1), rounds=chosen.rounds)
    print(f"{sum(len(made) for *_, made in pool.values())} attempts sampled from the policy", flush=True)
    model = train(
        Encoder(tokenizer), pool, steps=chosen.steps, tokens=chosen.tokens, layers=chosen.layers, hidden=chosen.hidden,
        rate=chosen.rate, seed=chosen.seed, alone=chosen.alone,
    )  # fmt: skip
    save(model, tokenizer, chosen.out, torch.float32)


if __name__ == "__main__":
    main()
