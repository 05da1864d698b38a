"""The reference pages name all there is: error classes, figures of a step, public names, decisions."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from woodshed import errors
from woodshed.errors import TROUBLESHOOTING, WoodshedError
from woodshed.loss.metrics import TokenStats
from woodshed.training.report.metrics import step_row
from woodshed.training.rollouts.groups import StepGroups
from woodshed.types import StepReport

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WoodshedError)]


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and Python-Markdown make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_says_where_the_documentation_speaks_of_it(kind: type[WoodshedError]) -> None:
    (note,) = kind("a message").__notes__
    page, _, anchor = note.removeprefix("see ").partition("#")

    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert page == TROUBLESHOOTING
    assert headings.count(kind.__name__) == 1 and slug(kind.__name__) == anchor
    assert str(kind("a message")) == "a message"  # what is stored and compared has no note


def test_an_error_class_of_another_file_points_to_the_nearest_one_that_is_described() -> None:
    class Special(errors.TrainError):
        pass

    assert Special("no").__notes__ == ["see docs/troubleshooting.md#trainerror"]


def documented_figures() -> set[str]:
    """Return the names in the tables of rows."""
    page = (DOCS / "run_folder.md").read_text()
    cells = re.findall(r"^\| (`[^|]*) \|[^|]*\|[^|]*\|$", page.split("## One row for each step")[1], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w/]+)`", cell)}


def figures_of_the_client() -> set[str]:
    report = StepReport(step_id="s", version=1, trained=True)
    sampled = StepGroups(groups=(), flat=0, extra=0, seconds=1.0)
    return set(step_row(0, sampled, report, stale=(), wait_s=0.0, train_s=0.0))


def figures_of_the_trainer() -> set[str]:
    """Return the names that the trainer's source writes into a step's metrics; it needs torch to be imported."""
    trainer = ROOT / "packages/core/src/woodshed/engine/trainer"
    written = {
        "step.py": ("take", "_sizes", "_memory", "_staleness"),
        "policy.py": ("update",),
        "drift.py": ("metrics",),
        "memory.py": ("figures",),
        "../vllm/lora_slots.py": ("swap_metrics",),
        "../../training/doctor/drift_probe.py": ("drift_by_probe",),
    }
    names = set()
    for file, functions in written.items():
        found = [n for n in ast.walk(ast.parse((trainer / file).read_text())) if getattr(n, "name", None) in functions]
        assert {n.name for n in found} == set(functions), file
        keys = (k for n in found for d in ast.walk(n) if isinstance(d, ast.Dict) for k in d.keys)
        names |= {k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
    ones = {field: 1.0 for field in TokenStats.__dataclass_fields__}
    return {f"train/{name}" for name in names | set(TokenStats(**ones).metrics())}


def test_every_figure_of_a_steps_row_is_documented_and_none_else() -> None:
    assert documented_figures() == figures_of_the_client() | figures_of_the_trainer()


@pytest.mark.parametrize(
    "package",
    ["woodshed", "woodshed.mcp", "woodshed.traces", "woodshed.export", "woodshed.testing", "woodshed_langgraph",
     "woodshed_crewai", "woodshed_adk"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")  # the frameworks' own, of their imports
def test_every_public_name_is_in_the_api_reference(package: str) -> None:
    shown = re.findall(r"^::: ([\w.]+)", "\n".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.MULTILINE)
    rooms = {"export", "mcp", "traces", "__version__"}

    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__ if name not in rooms}
    assert public <= set(shown)
    assert len(shown) == len(set(shown))


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DOCS / "decisions" / "index.md").read_text())

    assert sorted(listed) == sorted(p.name for p in (DOCS / "decisions").glob("0*.md"))


def test_every_page_is_in_the_sites_navigation() -> None:
    listed = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1], re.MULTILINE)

    pages = {str(page.relative_to(DOCS)) for page in DOCS.glob("**/*.md")}
    assert pages - set(listed) == set()
    assert len(listed) == len(set(listed))


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    headings = re.findall(r"^##+ .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    releases = [h for h in headings if h.startswith("## ")]
    assert releases[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", h) for h in releases[1:])
    assert {h.removeprefix("### ") for h in headings if h.startswith("### ")} <= kinds
