"""A page of the documentation → its code blocks, with what a comment before a block says about it.

A Python block runs after those above it on its page, in one namespace. A comment before it may say otherwise:

- `<!-- setup: … -->` holds code that runs before the block: names that the page's text leaves out.
- `<!-- ends with EngineMissing: why -->`: the block runs, up to this error.
- `<!-- not run: why -->`: it is compiled, and its imports, names and keyword arguments are checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/README.md"), *ROOT.glob("examples/**/*.md")]
)
_FRAGMENTS = {"class SupportCrew: ...": "the crew is left out"}
"""Part of a block of the README → why that block isn't run."""
_DIRECTIVE = re.compile(r"<!--\s*(setup|ends with (?P<error>\w+)|not run):(?P<text>.*?)-->", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    """Line of the page at which its text begins, counted from 1."""
    setup: str = ""
    ends_with: str | None = None
    not_run: str | None = None
    """Why it isn't run; None where it is."""


def blocks(page: Path) -> list[Block]:
    """Return the page's fenced blocks from top to bottom."""
    found, pending = [], {}
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "html_block":
            for said in _DIRECTIVE.finditer(token.content):
                if said[1] == "setup":
                    pending["setup"] = said["text"].strip("\n") + "\n"
                elif said["error"]:
                    pending["ends_with"] = said["error"]
                else:
                    pending["not_run"] = said["text"].strip()
        elif token.type == "fence":
            language = token.info.split()[0] if token.info.strip() else ""
            found.append(Block(language=language, text=token.content, line=token.map[0] + 2, **pending))
            pending = {}
    return [replace(b, not_run=why) if (why := _fragment(page, b)) else b for b in found]


def _fragment(page: Path, block: Block) -> str | None:
    parts = _FRAGMENTS.items() if page.resolve() == ROOT / "README.md" else ()
    return next((why for part, why in parts if part in block.text), None)


def sentences(page: Path) -> list[str]:
    """Return the sentences of a page's paragraphs and list items; code, tables and headings are none."""
    texts, is_prose = [], False
    for token in MarkdownIt().enable("table").parse(page.read_text()):
        if token.type in ("paragraph_open", "paragraph_close"):
            is_prose = token.type == "paragraph_open"
        elif token.type == "inline" and is_prose:
            words = "".join(map(_text, token.children or ()))
            texts += re.split(r"(?<=[.!?:])\s+(?=[^a-z])", words)
    return [text for text in texts if text.strip()]


def _text(token: Token) -> str:
    if token.type in ("softbreak", "hardbreak"):
        return " "
    return (
        f"`{token.content}`" if token.type == "code_inline" else token.content
    )  # so that a sentence may begin with it
