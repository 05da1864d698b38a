"""What the site takes from the rest of the repository: pages that live elsewhere, and links that lead out of `docs/`.

A page of the site is a file of `docs/`, or one of `ELSEWHERE`. A link to another file of the repository leads there if
the repository's address is known (`WOODSHED_REPOSITORY`); otherwise its text is left.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "packages/langgraph_adapter/README.md": "adapters/langgraph.md",
    "packages/crewai_adapter/README.md": "adapters/crewai.md",
    "packages/adk_adapter/README.md": "adapters/adk.md",
    "packages/tiny_world/README.md": "tiny_world.md",
    "examples/orders/README.md": "examples/orders.md",
    "examples/shop_real/README.md": "examples/shop_real.md",
    "examples/email_search/README.md": "examples/email_search.md",
    "examples/cluster/README.md": "examples/cluster.md",
    "examples/tiny_world/README.md": "examples/tiny_world.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "SECURITY.md": "security.md",
}
"""File of the repository → page of the site."""
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between `docs/` and the rest of the repository to pages of the site, or to the repository."""
    here = Path(page.file.abs_src_path or config.docs_dir).parent

    def link(found: re.Match[str]) -> str:
        parts = urlsplit(found["target"])
        if parts.scheme or parts.netloc or not parts.path:
            return found[0]
        target = (here / parts.path).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return found[0]  # mkdocs says so
        path = (target / "README.md" if (target / "README.md").exists() else target).relative_to(ROOT).as_posix()
        on_site = ELSEWHERE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if on_site is not None and files.get_file_from_path(on_site) is not None:
            relative = os.path.relpath(on_site, Path(page.file.src_uri).parent)
            return f"[{found['text']}]({relative}{'#' + parts.fragment if parts.fragment else ''})"
        if config.repo_url:
            return f"[{found['text']}]({config.repo_url.rstrip('/')}/blob/main/{path})"
        return found["text"]

    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):  # what is in a code block stays
        parts += [_LINK.sub(link, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, markdown[end:])])
