"""`woodshed judge-check` prints how a judge does in every mode, and ends with 1 where it is a coin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from known_judges import copies, honest
from loopback_judge import LoopbackJudge, Request, attempts_of, says, verdict


def judge_check(server: LoopbackJudge, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "woodshed", "judge-check", "--judge", "tiny", "--base-url", server.base_url, *arguments],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_the_table_shows_every_mode_and_the_best(server: LoopbackJudge) -> None:
    server.script = [says(copies)]

    done = judge_check(server, "--prompt-usd", "1", "--completion-usd", "10")

    assert done.returncode == 0, done.stderr
    titles, *rows = [row.split() for row in done.stdout.splitlines()[:4]]
    assert titles == ["mode", "replies", "flat", "position", "τ", "95", "%", "requests", "tokens", "USD", "seconds"]
    assert [row[:5] for row in rows] == [
        ["group", "10/10", "10", "0.00", "0.00"],
        ["single", "10/10", "0", "-", "1.00"],
        ["pairs", "10/10", "0", "0.00", "1.00"],
    ]
    assert rows[1][-4:-1] == ["4.0", "440", "0.00080"]
    assert "best: Ruler('tiny', mode='single')" in done.stdout
    assert {r["model"] for r in server.requests} == {"tiny"}


def test_a_coin_ends_with_1_after_its_table(server: LoopbackJudge) -> None:
    server.script = [says("5")]

    done = judge_check(server)

    assert done.returncode == 1
    assert "0/10" in done.stdout and "invalid reply twice" in done.stdout
    assert "CheckError: judge 'tiny' is no better than a coin" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_holds_the_same_figures(server: LoopbackJudge) -> None:
    server.script = [says(honest)]

    done = judge_check(server, "--json")

    found = json.loads(done.stdout)
    assert (found["judge"], found["success"]) == ("tiny", None)
    assert {m["mode"]: m["tau"] for m in found["modes"]} == {"group": 1.0, "single": 1.0, "pairs": 1.0}


def gold(path: Path) -> Path:
    """Half of the scored attempts are good; of those nobody has scored, one in four."""
    lines: list[dict[str, Any]] = []
    for n in range(8):
        lines += [{"scenario": f"s{n}", "task": f"Do {n}.", "text": f"worth {w} #{n}{k}", "score": w / 9}
                  for k, w in enumerate((9, 7, 2, 0))]  # fmt: skip
        lines += [{"scenario": f"s{n}", "task": f"Do {n}.", "text": f"worth {w} +{n}{k}", "score": None}
                  for k, w in enumerate((8, 3, 1, 1))]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def reads_worth(request: Request) -> str:
    """An honest judge, but for one failure in eight attempts that it takes for a success."""
    shown = attempts_of(request["messages"][1]["content"])
    worth = {i: int(text.split("worth ")[1][0]) + 6 * ("#1" in text and "worth 2" in text) for i, text in shown.items()}
    if "JSON" in request["messages"][0]["content"]:
        return verdict({i: w / 9 for i, w in worth.items()})
    return str(worth["A"]) if len(worth) == 1 else "A" if worth["A"] >= worth["B"] else "B"


def test_your_own_scores_give_an_interval_and_a_corrected_success_rate(server: LoopbackJudge, tmp_path: Path) -> None:
    server.script = [says(reads_worth)]
    rubric = tmp_path / "rubric.md"
    rubric.write_text("- More is better.")

    done = judge_check(server, "--gold", str(gold(tmp_path / "g.jsonl")), "--rubric", str(rubric), "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    single = next(m for m in found["modes"] if m["mode"] == "single")
    assert (single["groups"], single["masked"]) == (8, 0)
    low, high = single["tau_interval"]
    assert low < single["tau"] == (7 + 4 / 6) / 8 < high == 1.0
    success = found["success"]
    assert (success["judged"], success["sensitivity"], success["specificity"]) == (0.25, 1.0, 15 / 16)
    assert success["corrected"] == (0.25 + 15 / 16 - 1) / (15 / 16)
    assert success["interval"][0] < success["corrected"] < success["interval"][1]
    assert all("More is better" in r["messages"][0]["content"] for r in server.requests)


def test_a_bad_gold_file_is_one_line_and_asks_nobody(server: LoopbackJudge, tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_text('{"scenario": "a", "task": "t", "text": "x", "score": 7}\n')

    done = judge_check(server, "--gold", str(tmp_path / "g.jsonl"))

    assert done.returncode == 1
    assert "ConfigError: line 1 of" in done.stderr and "'score' is 7" in done.stderr
    assert server.requests == []
