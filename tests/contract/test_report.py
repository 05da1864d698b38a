"""The contract's table says what happened, and nothing that did not run counts as kept."""

from __future__ import annotations

import inspect

from report import HELD_ONCE, PAGE, ROWS, Cell, read_cells, table, with_core

from woodshed.testing.conformance import Conformance, CoreConformance
from woodshed.testing.conformance.rows import ROW

CASE = '<testcase name="test_row_{row:02}_x">{body}</testcase>'


def junit(*cases: tuple[int, str]) -> str:
    return f"<testsuites>{''.join(CASE.format(row=row, body=body) for row, body in cases)}</testsuites>"


def skipped(reason: str) -> str:
    return f'<skipped message="{reason}"/>'


def rows_of(contract: type) -> set[int]:
    names = [name for name, _ in inspect.getmembers(contract, inspect.isfunction) if name.startswith("test_")]
    rows = [ROW.match(name) for name in names]
    assert all(rows), names
    return {int(row[1]) for row in rows if row}


def test_every_row_is_held_by_each_adapter_or_once_for_all() -> None:
    assert rows_of(CoreConformance) == set(HELD_ONCE)
    assert rows_of(Conformance) == set(ROWS) - set(HELD_ONCE)
    assert set(ROWS) == set(range(1, 26))


def test_a_row_held_once_counts_for_every_adapter_and_says_so() -> None:
    core = read_cells(junit((14, ""), (15, "<failure/>"), (1, "")))
    column = with_core(read_cells(junit((1, "<failure/>"), (14, "<failure/>"))), core)
    lines = table({"A": column}).splitlines()[1:]

    assert [column[row].is_kept for row in (1, 14, 15, 17)] == [False, True, False, False]
    assert lines[14].endswith("| pass (1), once for all |")
    assert lines[15].endswith("| **fail** (1 of 1), once for all |")
    assert lines[17].endswith("| **missing**, once for all |")


def test_a_row_passes_only_if_all_its_checks_do() -> None:
    cells = read_cells(junit((1, ""), (1, ""), (2, ""), (2, "<failure/>"), (3, "<error/>")))

    assert [(cells[row].show(), cells[row].is_kept) for row in (1, 2, 3, 4)] == [
        ("pass (2)", True), ("**fail** (1 of 2)", False), ("**fail** (1 of 1)", False), ("**missing**", False),
    ]  # fmt: skip


def test_what_does_not_apply_keeps_its_reason_and_what_was_not_run_is_no_pass() -> None:
    lacks = skipped("not applicable: it has no handoff")
    cells = read_cells(junit((1, lacks), (1, lacks), (2, ""), (2, lacks), (3, ""), (3, skipped("no engine here"))))

    assert [(cells[row].show(), cells[row].is_kept) for row in (1, 2, 3)] == [
        ("not applicable: it has no handoff", True),
        ("pass (1); in part not applicable: it has no handoff", True),
        ("**not run**: no engine here", False),
    ]


def test_the_table_has_a_line_a_row_and_a_column_an_adapter() -> None:
    shown = table({"A": {row: Cell(passed=1) for row in ROWS}, "B": {row: Cell() for row in ROWS}}).splitlines()

    assert len(shown) == 2 + len(ROWS)
    assert shown[0] == "| | | A | B |"
    assert shown[2].endswith("| pass (1) | **missing** |")


def test_the_page_in_the_repository_shows_no_broken_promise() -> None:
    page = PAGE.read_text()

    assert all(f"| {row} | {title} |" in page for row, title in ROWS.items())
    assert not [line for line in page.splitlines() if line.startswith("| ") and "**" in line]
