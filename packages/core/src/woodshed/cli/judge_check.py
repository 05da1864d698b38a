"""`woodshed judge-check`: try a judge in every mode on attempts whose order is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def judge_check(
    judge: Annotated[str, typer.Option(help="Name of the judge, such as gpt-5-mini or qwen3:32b.")],
    base_url: Annotated[str | None, typer.Option(help="Its OpenAI-compatible address; default: OpenAI's.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Its key.", show_default="OPENAI_API_KEY")] = None,
    rubric: Annotated[str | None, typer.Option(help="Your rubric: a text, or a file that holds it.")] = None,
    gold: Annotated[
        Path | None, typer.Option(help="JSONL file of some 50 attempts that people have scored.", metavar="FILE")
    ] = None,
    prompt_usd: Annotated[float | None, typer.Option(help="USD per million prompt tokens.")] = None,
    completion_usd: Annotated[float | None, typer.Option(help="USD per million completion tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply, for judges that reason.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Stop before this much is spent, in USD.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Try a judge: does it rank attempts rightly, in which mode, and at what price?

    Ten built-in groups of four attempts, whose order is beyond doubt, are judged in every mode of `Ruler`; with --gold,
    the attempts of your own file. Exits with status 1 if the judge is no better than a coin.

    \b
    woodshed judge-check --judge gpt-5-mini
    woodshed judge-check --judge qwen3:32b --base-url http://localhost:11434/v1
    woodshed judge-check --judge gpt-5-mini --rubric rubric.md --gold scored.jsonl

    A line of the file: {"scenario": "id", "task": "...", "text": "the attempt", "score": number from 0 to 1}, or
    "messages" in place of task and text. With "score": null an attempt counts for the success rate only.
    """  # noqa: D301 - the backspace keeps the line breaks of the examples
    from woodshed.cli.judge_table import examine
    from woodshed.rewards.judge import Judge

    asked = Judge(
        judge, base_url=base_url, api_key=api_key, max_tokens=max_tokens, prompt_usd_per_million=prompt_usd,
        completion_usd_per_million=completion_usd,
    )  # fmt: skip
    examine(asked, rubric=rubric, gold=gold, max_cost_usd=max_cost_usd, as_json=as_json)
