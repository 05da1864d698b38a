"""`make contract`: run the contract, print rows × adapters, and write the table to `docs/contract.md`.

Exits 1 where a row fails or is missing. The page holds nothing that differs between two runs of the same code.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "contract.md"
CORE = ROOT / "packages" / "core" / "tests" / "testing" / "test_conformance.py"
ROWS: Mapping[int, str] = {
    1: "two nodes or agents send the identical prompt and get different completions: both trained once",
    2: "a planner and two interleaved sub-agents, 10 turns each: 3 rows, not 30",
    3: "structured output: tool mode, json_schema mode, raw included",
    4: "streaming with tool-call deltas, and event streams",
    5: "`tool_choice` required, named, none",
    6: "three parallel tool calls in one message",
    7: "a tool raises: the model sees the framework's own error text, the trajectory the typed error, masks right",
    8: "SDK retry after 500 and 429, framework retry: attempts recorded, only the used one trained",
    9: "a template that strips earlier thinking: no re-tokenised token is ever trained",
    10: "context compaction mid-rollout: second segment, shared advantage, per-rollout normalisation",
    11: "32 concurrent rollouts of one module-level agent: no crosstalk, by content",
    12: "a sync agent in a thread pool, an agent that starts threads: context survives or fails closed",
    13: "right agent name and parent on every call in parallel, transfer and nested-agent cases",
    14: "judge replies reordered, wrong ids, missing id, duplicate id, out of range, NaN, truncated, fenced in prose",
    15: "trajectory text that tries to close the fence and award itself a score",
    16: "a rollout hangs: timeout, sealed, late call refused, not in the trace",
    17: "kill -9 between rollout and train, resume: each rollout trained once, no judge call paid twice",
    18: "weights change mid-rollout: every token carries its version and its own logprob",
    19: "infrastructure exception: zero gradient contribution, shown on the parameters",
    20: "no tool call in N groups, empty tool names, missing ids, flat rewards: a warning at step 0 that says which",
    21: "outputs, events, state and exceptions identical to the uninstrumented agent: sync, async, stream",
    22: "uninstrument restores every patched attribute by identity; double instrument wraps once",
    23: "a worker shared by rollouts (thread, pool, task) never moves a call to another rollout",
    24: "an error of woodshed's own that the agent swallows fails the rollout",
    25: "state of one attempt in another's first prompt is warned of",
}
HELD_ONCE = (14, 15, 17, 19, 20)
"""Rows in which no framework has a part: `CORE` holds them once, for all adapters."""
_CASE = re.compile(r"test_row_(\d\d)_")
_NOT_APPLICABLE = "not applicable: "
_HEAD = """# The contract

Every adapter keeps these promises. They are written once, in `woodshed.testing.conformance`, and run against the real
framework and woodshed's real engine (gateway, sessions, SQLite store, control plane, trainer) over HTTP; only vLLM is
replaced, by a scripted server that answers with the tokens and log-probabilities vLLM 0.32 would send. `make contract`
runs them and writes this page. In brackets: how many checks the row is made of. Rows that no framework touches are held
once, with an agent that is nothing but chat completions in a loop, and say so.
"""


@dataclass(slots=True)
class Cell:
    """One row of one adapter: its checks by how they ended."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    """Reasons why a check does not apply."""
    skipped: list[str] = field(default_factory=list)
    """Reasons why a check was not run; that is no pass."""

    @property
    def is_kept(self) -> bool:
        """Whether the promise was shown, or does not apply."""
        return not self.failed and not self.skipped and bool(self.passed or self.lacking)

    def show(self) -> str:
        """Return the cell in a word, with its reasons."""
        if self.failed:
            return f"**fail** ({len(self.failed)} of {len(self.failed) + self.passed})"
        if self.skipped:
            return f"**not run**: {'; '.join(_once(self.skipped))}"
        if not self.passed:
            return f"not applicable: {'; '.join(_once(self.lacking))}" if self.lacking else "**missing**"
        part = f"; in part not applicable: {'; '.join(_once(self.lacking))}" if self.lacking else ""
        return f"pass ({self.passed}){part}"


def read_cells(junit: str) -> dict[int, Cell]:
    """Return every row's cell from a pytest report."""
    cells = {row: Cell() for row in ROWS}
    for case in ET.fromstring(junit).iter("testcase"):
        name = case.get("name", "")
        if (row := _CASE.match(name)) is None:
            continue
        cell, skip = cells[int(row[1])], case.find("skipped")
        reason = "" if skip is None else skip.get("message", "")
        if case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(name)
        elif skip is None:
            cell.passed += 1
        elif reason.startswith(_NOT_APPLICABLE):
            cell.lacking.append(reason.removeprefix(_NOT_APPLICABLE))
        else:
            cell.skipped.append(reason)
    return cells


def table(columns: Mapping[str, Mapping[int, Cell]]) -> str:
    """Return rows × adapters as Markdown."""
    head = ["| | | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    lines = [
        f"| {row} | {title} | "
        + " | ".join(f"{cells[row].show()}{', once for all' * (row in HELD_ONCE)}" for cells in columns.values())
        + " |"
        for row, title in ROWS.items()
    ]
    return "\n".join([*head, *lines])


def with_core(cells: Mapping[int, Cell], core: Mapping[int, Cell]) -> dict[int, Cell]:
    """Return an adapter's column: its own cells, and those that are held once for all."""
    return {row: core[row] if row in HELD_ONCE else cell for row, cell in cells.items()}


def _once(reasons: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(reasons))


def _title(contract: Path) -> str:
    """Return the column's title: the `framework` that the test class names."""
    for node in ast.walk(ast.parse(contract.read_text())):
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "framework" for t in node.targets):
            return str(ast.literal_eval(node.value))
    return contract.parents[1].name


def _run(contract: Path) -> tuple[dict[int, Cell], str]:
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", str(contract), "-q", "--junitxml", str(junit), "-p", "no:cacheprovider"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return read_cells(junit.read_text() if junit.exists() else "<testsuites/>"), done.stdout + done.stderr


def main() -> int:
    """Run, print, write; return the exit status."""
    contracts = sorted(ROOT.glob("packages/*_adapter/tests/test_conformance.py"))
    # Two at once: most of a contract's time is spent waiting for another process.
    with ThreadPoolExecutor(2) as pool:
        (core, core_output), *ended = pool.map(_run, [CORE, *contracts])
    columns = {_title(contract): with_core(cells, core) for contract, (cells, _) in zip(contracts, ended, strict=True)}
    shown = table(columns)
    PAGE.write_text(f"{_HEAD}\n{shown}\n")
    print(shown)
    broken = [name for name, cells in columns.items() if not all(cell.is_kept for cell in cells.values())]
    if not all(core[row].is_kept for row in HELD_ONCE):
        print(f"\n== once for all ==\n{core_output[-6000:]}")
    for contract, (_, output) in zip(contracts, ended, strict=True):
        if _title(contract) in broken:
            print(f"\n== {_title(contract)} ==\n{output[-6000:]}")
    kept = sum(cell.is_kept for cells in columns.values() for cell in cells.values())
    print(
        f"\n{kept} of {len(ROWS) * len(columns)} promises kept ({len(ROWS)} rows × {len(columns)} adapters;"
        f" rows {', '.join(map(str, HELD_ONCE))} are held once for all)"
    )
    return 1 if broken or not columns else 0


if __name__ == "__main__":
    sys.exit(main())
