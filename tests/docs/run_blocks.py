"""Check the names in a page's Python blocks and run them in one namespace, top to bottom: `run_blocks.py PAGE`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from markdown_page import Block, blocks
from names import problems


def main(page: Path) -> int:
    shown: dict[str, Any] = {"__name__": "page"}
    count = 0
    for block in (b for b in blocks(page) if b.language == "python"):
        problem = next(problems(block.text), None)
        if problem is None and block.not_run is None:
            problem, count = run(block, shown, page), count + 1
        if problem is not None:
            print(f"{page}:{block.line}: {problem}", file=sys.stderr)
            return 1
    print(f"{count} blocks ran")
    return 0


def run(block: Block, shown: dict[str, Any], page: Path) -> str | None:
    """Return what went otherwise than the page says; None where nothing did."""
    try:
        execute(block.setup, shown, f"{page}, setup", 1)
        execute(block.text, shown, str(page), block.line)
    except Exception as error:
        if type(error).__name__ == block.ends_with:
            return None
        return "".join(traceback.format_exception(error))
    return None if block.ends_with is None else f"expected {block.ends_with}, and nothing was raised"


def execute(text: str, shown: dict[str, Any], file: str, line: int) -> None:
    code = compile("\n" * (line - 1) + text, file, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, shown))
    else:
        exec(code, shown)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
