"""Train the byte-level BPE tokenizer that both tiny models share, and write it into their folders.

Constant text (tool schema, rubric, JSON scaffolding) becomes a few long tokens. Capitalised words, numbers and the
judge's fence code are kept separate, so that whatever differs between two texts is a token of its own.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from attempts import VERDICTS, Attempt, Turn, answer_text, call_text, confused_call, reply_text, trajectory, translated
from dialects import DIALECTS
from mistakes import KINDS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from woodshed.rewards.prompt import PromptSettings, attempt_ids, build_prompt, default_rubric
from woodshed_tiny_world import all_scenarios, judge_path, open_shop, policy_path
from woodshed_tiny_world.verifier import fact

TEMPLATE = (Path(__file__).parent / "template.jinja").read_text()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>"]
APART = r"[01]\.[0-9]|(?<=code: )[a-z0-9]{4}(?=\n)|(?<= )[a-z0-9]{4}(?=>)|[0-9]{1,2}|[A-Z][a-z]+|[A-Z]+"


def texts(draw: random.Random) -> Iterator[str]:
    """Yield what both models read and write."""
    shell = wrap(Tokenizer(models.BPE()))
    shop = open_shop()
    scenarios = all_scenarios()
    # Every two-digit number is one token, including those that this shop doesn't use.
    yield " ".join(map(str, range(10, 100))) * 500
    for round_, scenario in enumerate(scenarios * 3):
        attempts: list[Attempt] = []
        for _ in range(5):
            name, arguments = confused_call(scenario, draw)
            result = fact(name, arguments, shop)
            attempts.append(
                (Turn(text=call_text(name, arguments), result=result), Turn(text=answer_text(scenario.item, result)))
            )
            yield answer_text(scenario.item, result)
            yield call_text(name, arguments)[len("<tool_call>") : -len("</tool_call>")]
        attempts += [kind(scenario, shop, draw) for kind in draw.choices(list(KINDS), k=3)]
        draw.shuffle(attempts)
        ids = attempt_ids(len(attempts))
        yield reply_text(ids, draw.choices(list(VERDICTS), k=8))
        dialect = DIALECTS[round_ % len(DIALECTS)]
        shown = [trajectory(scenario, translated(a, dialect, shop), str(i), dialect) for i, a in enumerate(attempts)]
        prompt = build_prompt(
            shown, order=range(len(shown)), settings=PromptSettings(rubric=default_rubric()), salt=str(round_)
        )
        yield prompt.user
        for _ in range(8):
            yield prompt.system
            chat = [
                {"role": "system", "content": dialect.system},
                {"role": "user", "content": dialect.asked(scenario.question)},
            ]
            yield str(shell.apply_chat_template(chat, tools=dialect.tools, tokenize=False, add_generation_prompt=True))


def train(vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """Return the trained tokenizer with its chat template."""
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(APART), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(TAGS),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=400,
        show_progress=False,
    )
    parts = (part for text in texts(random.Random(seed)) for part in _unmarked(text))
    bpe.train_from_iterator(parts, trainer)
    # As in larger models of this family, tags are tokens of their own but not special, so that decoding keeps them.
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return wrap(bpe)


def _unmarked(text: str) -> list[str]:
    for mark in (*SPECIAL, *TAGS):
        text = text.replace(mark, "\0")
    return [part for part in text.split("\0") if part]


def wrap(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer around a trained BPE."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def main() -> None:
    """Train and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--vocabulary", type=int, default=1536)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, nargs="+", default=[policy_path(), judge_path()])
    chosen = options.parse_args()
    tokenizer = train(chosen.vocabulary, chosen.seed)
    for folder in chosen.out:
        tokenizer.save_pretrained(folder)
        print(f"{len(tokenizer)} tokens → {folder}")


if __name__ == "__main__":
    main()
