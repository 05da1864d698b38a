"""The contract that every adapter keeps, written once: subclass `Conformance` in a test file and supply the agents.

Each row of `docs/contract.md` is one or more methods `test_row_NN_…`; those that no framework touches stand in
`CoreConformance`. They run against woodshed's real engine (gateway,
sessions, store, trainer) in its own environment, with a scripted model server in the place of vLLM.
"""

import pytest

# Before the modules are imported: their assertions are the tests' own.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "truth",
            "rows",
            "token_rows",
            "structure_rows",
            "life_rows",
            "sharing_rows",
            "judge_rows",
            "training_rows",
        )
    )
)

from woodshed.testing.conformance.adapter import (  # noqa: E402
    Adapter,
    AnswerMode,
    Outcome,
    Streamed,
    Tool,
)
from woodshed.testing.conformance.judge_rows import JudgeRows  # noqa: E402
from woodshed.testing.conformance.life_rows import LifeRows  # noqa: E402
from woodshed.testing.conformance.sharing_rows import SharingRows  # noqa: E402
from woodshed.testing.conformance.structure_rows import StructureRows  # noqa: E402
from woodshed.testing.conformance.token_rows import TokenRows  # noqa: E402
from woodshed.testing.conformance.training_rows import TrainingRows  # noqa: E402


class Conformance(TokenRows, StructureRows, LifeRows, SharingRows):
    """The rows each adapter is held to; its test file subclasses this as `class TestConformance(Conformance)`."""


class CoreConformance(JudgeRows, TrainingRows):
    """The rows in which no framework has a part: held once, for all adapters."""


__all__ = ["Adapter", "AnswerMode", "Conformance", "CoreConformance", "Outcome", "Streamed", "Tool"]
