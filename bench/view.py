"""How fast `woodshed view` shows a large run, and how much memory its server takes.

    python bench/view.py [--trajectories 10000] [--keep FOLDER] [--json FILE]

Writes a run of that many trajectories through the run's own store (each of four model calls and 1,000 sampled tokens),
serves it, and opens its pages in a real Chromium with an empty cache: milliseconds to the first paint and to the page's
content, and the server's resident memory at its peak. Median of five visits.

Needs playwright and Chromium (`apt-get install chromium`, or `WOODSHED_CHROMIUM=PATH`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
from playwright.sync_api import Browser, sync_playwright

import woodshed
from woodshed.training.run.store import RunStore
from woodshed.types import (
    CallMetadata,
    Completion,
    Judgement,
    Message,
    ModelCall,
    Reading,
    Score,
    StepReport,
    TokenCall,
    ToolCall,
    ToolRequest,
    Trajectory,
)  # fmt: skip

GROUP, GROUPS, CALLS, TOKENS, VISITS = 8, 20, 4, 250, 5
WORDS = "the order of a customer in the shop was sent with its papers on Monday and came back again today".split()
FIRST_PAINT_MS, SERVER_MB = 1000, 200
"""What is promised."""


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def rollout(rng: random.Random, rollout_id: str, scenario: str, version: int) -> Trajectory:
    messages = [Message(role="system", content="You keep a shop. " * 20), Message(role="user", content=scenario)]
    calls, tools = [], []
    for number in range(CALLS):
        last = number == CALLS - 1
        request = ToolRequest(id=f"t{number}", name="look", arguments=json.dumps({"item": text(rng, 3)}))
        said = Message(role="assistant", content=text(rng, 60), tool_requests=() if last else (request,))
        answer = Completion(
            index=0, message=said, token_ids=tuple(rng.randrange(30_000) for _ in range(TOKENS)),
            logprobs=tuple(-rng.random() for _ in range(TOKENS)), weight_versions=(version,) * TOKENS,
            finish_reason="stop" if last else "tool_calls",
        )  # fmt: skip
        call_id = f"{rollout_id}/{number}"
        calls.append(
            ModelCall(
                tokens=TokenCall(
                    call_id=call_id, started_s=number, latency_s=0.5, messages=tuple(messages),
                    prompt_ids=tuple(range(200 * (number + 1))), completions=(answer,), sampling={"temperature": 1.0},
                ),
                note=CallMetadata(call_id=call_id, agent="agent"),
            )
        )  # fmt: skip
        if not last:
            result = text(rng, 80)
            tools.append(ToolCall(tool_call_id=request.id, name="look", arguments={}, result=result, latency_s=0.1))
            messages += [said, Message(role="tool", content=result, tool_call_id=request.id)]
    return Trajectory(
        rollout_id=rollout_id, scenario_id=scenario, calls=tuple(calls), tool_calls=tuple(tools), latency_s=3.0
    )


def judged(rng: random.Random, members: list[Trajectory]) -> Judgement:
    scores = tuple(Score(rollout_id=t.rollout_id, value=rng.random(), explanation=text(rng, 30)) for t in members)
    reading = Reading(
        judge="judge", rollouts=tuple(s.rollout_id for s in scores), scores=tuple(s.value for s in scores),
        explanations=tuple(s.explanation for s in scores),
    )  # fmt: skip
    return Judgement(
        scores=scores, judge="judge", requests=2, consistency=0.9, distinct=len(members), readings=(reading,) * 2
    )


def write(folder: Path, trajectories: int) -> None:
    """Write a run of exactly that many; its last step, and that one's last group, hold what is left."""
    rng, store, left = random.Random(0), RunStore(folder), trajectories
    steps = -(-trajectories // (GROUP * GROUPS))
    config = woodshed.TrainConfig(steps=steps, group_size=GROUP, scenarios_per_step=GROUPS)
    policy = woodshed.Policy("nobody/model").model_dump(mode="json")
    store.claim({"policy": policy, "config": config.identity(), "reward": "Ruler('judge')"}, config.limits())
    for step in range(steps):
        of_step = min(left, GROUP * GROUPS)
        for n in range(-(-of_step // GROUP)):
            scenario = f"scenario-{step * GROUPS + n}"
            members = [rollout(rng, f"{step}-{scenario}-{k}", scenario, step) for k in range(min(left, GROUP))]
            left -= len(members)
            for k, member in enumerate(members):
                store.save_trajectory(f"{step}/{scenario}/{k}", member)
            store.save_judgement(f"{step}/{scenario}", judged(rng, members))
        row = {
            "step": step, "reward": 0.5 + 0.3 * step / steps, "rollouts": of_step, "masked": 0, "flat_groups": 1,
            "unjudged_groups": 0, "stale_groups": 0, "judge_requests": 40, "judge_tokens": 90_000,
            "judge_cost_usd": 0.1,
            "tokens_per_s": 900.0, "rollout_s": 60.0, "wait_s": 20.0, "train_s": 30.0, "version": step + 1,
            "trained": True, "train/loss": rng.gauss(0, 0.01), "train/entropy": 0.4, "train/logprob_drift_fresh": 0.01,
            "train/staleness_mean": 0.5, "sampled_tokens": 160_000,
        }  # fmt: skip
        store.save_step(step, StepReport(step_id=f"step-{step:05d}", version=step + 1, trained=True), row)
    store.save_fact("success_before", 0.3)
    store.save_fact("success_after", 0.8)
    store.save_fact("finished", True)
    store.close()


def count(folder: Path) -> int:
    """Return how many trajectories the run has."""
    with closing(sqlite3.connect(folder / "run.sqlite")) as db:
        (found,) = db.execute("SELECT count(*) FROM trajectories").fetchone()
    return int(found)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-m", "woodshed", "view", "--no-browser", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http")), psutil.Process(process.pid)
        finally:
            process.terminate()


def visit(browser: Browser, address: str, selector: str) -> tuple[float, float]:
    """Return milliseconds to the first paint and to the content, by the page's own clock."""
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector(selector)
    content = page.evaluate("performance.now()")
    paints = "performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)"
    while not (paint := page.evaluate(paints)):
        time.sleep(0.01)
    page.close()
    return paint[0], content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, help="write the run there, or use the one that is there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chromium = os.environ.get("WOODSHED_CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        print(f"skipped: there is no {chromium} (apt-get install chromium)")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        if not folder.exists():
            write(folder, arguments.trajectories)
        trajectories = count(folder)
        size_mb = sum(f.stat().st_size for f in folder.glob("run.sqlite*")) / 2**20
        pages = {
            "overview": ("", ".chart canvas"),
            "groups": ("#/0/groups/3", ".list tbody tr"),
            "group": (f"#/0/group/{quote('3/scenario-65', safe='')}", ".column"),
            "attempt": (f"#/0/attempt/{quote('3/scenario-65/0', safe='')}", ".conversation"),
        }
        figures: dict[str, dict[str, float]] = {}
        with served(folder) as (address, server), sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            for name, (path, selector) in pages.items():
                visits = [visit(browser, address + path, selector) for _ in range(VISITS)]
                paints, contents = zip(*visits, strict=True)
                figures[name] = {
                    "first_paint_ms": statistics.median(paints), "content_ms": statistics.median(contents),
                    "first_visit_content_ms": contents[0],
                }  # fmt: skip
            memory = server.memory_info().rss / 2**20
            browser.close()
    print(f"{trajectories:,} trajectories, {size_mb:.0f} MiB of run.sqlite")
    print("page       first paint   content   content at the first visit")
    for name, found in figures.items():
        print(
            f"{name:10} {found['first_paint_ms']:8.0f} ms {found['content_ms']:6.0f} ms "
            f"{found['first_visit_content_ms']:12.0f} ms"
        )
    print(f"server: {memory:.0f} MiB resident")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {"trajectories": trajectories, "pages": figures, "server_mb": memory, "run_mb": size_mb}, indent=2
            )
        )
    slow = [name for name, found in figures.items() if found["first_paint_ms"] > FIRST_PAINT_MS]
    if slow or memory > SERVER_MB:
        sys.exit(f"more than {FIRST_PAINT_MS} ms to the first paint ({slow}) or {SERVER_MB} MiB ({memory:.0f})")


if __name__ == "__main__":
    main()
