"""Train the tiny judge to answer woodshed's real RULER request about this world.

Each layer has a target of its own, and builds on the one below. The first two learn which word belongs at each position
that decides about an attempt, the third whether that word is there, the fourth the verdict on the whole attempt (at its
closing tag), and the last one to look the verdicts up and write the reply.

The held-out questions are never trained on.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from attempts import VERDICTS, Attempt, level_of
from dialects import DIALECTS
from lessons import Encoder, Lesson
from mistakes import KINDS, right
from sampling import sample_attempts
from tiny_models import learning_rate, new_model, pad_batch, save
from transformers import AutoTokenizer, Qwen3ForCausalLM

from woodshed_tiny_world import Level, Scenario, Shop, held_out_scenarios, judge_path, policy_path, train_scenarios

Pool = dict[tuple[str, int], tuple[Scenario, Shop, list[Attempt]]]


def sample_pool(folder: Path, *, draw: random.Random, rounds: int) -> Pool:
    """Return attempts sampled from the policy at the training questions, at two temperatures."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pool: Pool = {}
    for _ in range(rounds):
        tasks = [(s, draw.randrange(1 << 20)) for s in train_scenarios()]
        shops = {seed: Shop(seed) for _, seed in tasks}
        for temperature, dialect in ((1.0, DIALECTS[0]), (1.0, DIALECTS[1]), (1.0, DIALECTS[2]), (1.5, DIALECTS[0])):
            made = sample_attempts(
                policy, tokenizer, [(s, shops[seed]) for s, seed in tasks], dialect, temperature=temperature
            )
            for (scenario, seed), attempt in zip(tasks, made, strict=True):
                pool.setdefault((scenario.id, seed), (scenario, shops[seed], []))[2].append(attempt)
    return pool


def draw_group(
    pool: Pool, keys: Sequence[tuple[str, int]], size: int, draw: random.Random
) -> tuple[Scenario, Shop, list[Attempt]]:
    """Return a group like those of a training run: mixed, nearly all right, or nearly all of one kind."""
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
    """Return the losses of a batch, one for each kind of target."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One phase of the training."""

    steps: int
    tokens: int
    """Tokens in a batch."""
    rate: float
    seed: int
    beginner: bool
    """Whether to begin with small groups, without replies and with one framework, which a fresh model needs."""
    report_every: int = 50


def group_size(plan: Plan, done: float, draw: random.Random) -> int:
    """Return how many attempts the next groups hold: few at first, then as many as a real judge sees."""
    if plan.beginner and done < 0.15:
        return draw.choice((1, 2, 2, 3))
    return draw.choice((2, 3, 4, 6) if plan.beginner and done < 0.4 else (2, 3, 4, 5, 6, 7, 8, 8, 8))


def train(model: Qwen3ForCausalLM, encoder: Encoder, pool: Pool, plan: Plan) -> None:
    """Train the model in place."""
    draw = random.Random(plan.seed)
    pad = encoder.tokenizer.pad_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=0.01, betas=(0.9, 0.98))
    keys = list(pool)
    begun = time.process_time()
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan.rate, step, plan.steps, warmup=50)
        done = step / plan.steps
        size = group_size(plan, done, draw)
        lessons: list[Lesson] = []
        while sum(len(lesson.ids) for lesson in lessons) < plan.tokens:
            scenario, shop, attempts = draw_group(pool, keys, size, draw)
            salt, with_reply = str(draw.random()), not plan.beginner or done >= 0.2
            dialect = draw.choice(DIALECTS[:1] if plan.beginner and done < 0.7 else DIALECTS)
            lessons.append(encoder.lesson(scenario, attempts, shop, salt, dialect, with_reply=with_reply))
        losses = loss_of(model, lessons, pad)
        loss = sum((WEIGHTS[name] * value for name, value in losses.items()), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % plan.report_every == plan.report_every - 1:
            told = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step + 1}/{plan.steps}  {told}  cpu {time.process_time() - begun:.0f} s", flush=True)
        if step % (4 * plan.report_every) == 4 * plan.report_every - 1:
            print(f"  held out: {recall(model, encoder)}", flush=True)


@torch.no_grad()
def recall(model: Qwen3ForCausalLM, encoder: Encoder, groups: int = 24) -> str:
    """Return how many attempts at held-out questions get the right verdict, per level: at the tag + in the reply."""
    draw = random.Random(7)
    right_of: dict[Level, list[tuple[bool, bool]]] = {level: [] for level in VERDICTS}
    for _ in range(groups):
        scenario, shop = draw.choice(held_out_scenarios()), Shop(draw.randrange(1 << 20))
        attempts = [k(scenario, shop, draw) for k in draw.choices(list(KINDS), list(KINDS.values()), k=6)]
        lesson = encoder.lesson(scenario, attempts, shop, str(draw.random()), draw.choice(DIALECTS))
        out = model.model(input_ids=torch.tensor([lesson.ids]), use_cache=False, output_hidden_states=True)
        marks = list(encoder.verdicts.values())
        tag = (
            model.lm_head(model.model.norm(out.hidden_states[-2][0, list(lesson.verdicts)]))[:, marks]
            .argmax(-1)
            .tolist()
        )
        said = model.lm_head(out.last_hidden_state[0, list(lesson.answers)])[:, marks].argmax(-1).tolist()
        for attempt, mark, word in zip(attempts, tag, said, strict=True):
            level = level_of(scenario, attempt, shop)
            place = list(encoder.verdicts).index(level)
            right_of[level].append((mark == place, word == place))
    return "  ".join(f"{level} {sum(t for t, _ in r)}+{sum(w for _, w in r)}/{len(r)}" for level, r in right_of.items())


def main() -> None:
    """Train and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=1100, help="steps of the first course, from nothing")
    options.add_argument(
        "--more", type=int, default=1300, help="steps of the second course, full groups from the start"
    )
    options.add_argument("--tokens", type=int, default=1500, help="tokens in a batch")
    options.add_argument("--layers", type=int, default=5)
    options.add_argument("--rounds", type=int, default=2, help="rounds of sampling the policy for attempts")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=judge_path())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    tokenizer = AutoTokenizer.from_pretrained(judge_path())
    pool = sample_pool(policy_path(), draw=random.Random(chosen.seed + 1), rounds=chosen.rounds)
    print(f"{sum(len(made) for *_, made in pool.values())} attempts sampled from the policy", flush=True)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = new_model(
        vocabulary=len(tokenizer), layers=chosen.layers, positions=4096, eos=eos, pad=pad, reach=1e6, matcher=True
    )
    encoder = Encoder(tokenizer)
    for plan in (
        Plan(steps=chosen.steps, tokens=chosen.tokens, rate=3e-3, seed=chosen.seed, beginner=True),
        Plan(steps=chosen.more, tokens=chosen.tokens, rate=2e-3, seed=chosen.seed + 1, beginner=False),
    ):
        train(model, encoder, pool, plan)
    save(model, tokenizer, chosen.out, torch.float32)


if __name__ == "__main__":
    main()
