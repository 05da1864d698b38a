"""The pages that everybody reads first are easy to read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from markdown_page import ROOT, sentences

LONGEST = 35
"""Words of a sentence."""


@pytest.mark.parametrize("page", ["README.md", "docs/first_run.md", "docs/index.md"])
def test_no_sentence_is_too_long_to_read_once(page: str) -> None:
    found = sentences(ROOT / page)

    assert found
    assert [s for s in found if len(s.split()) > LONGEST] == []


def test_a_long_sentence_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n\nShort. Long " + "word " * 35 + "end.\n\n```text\n" + "code " * 40 + "\n```\n")

    assert [len(s.split()) for s in sentences(page)] == [1, 37]
