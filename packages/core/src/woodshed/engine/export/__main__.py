"""`python -m woodshed.engine.export JOB.json`: do an `ExportJob`, and tell how it ended.

Standard output is one JSON object a line: `{"progress": "…"}`, at last `{"report": {…}}` or `{"error": "…"}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from woodshed.engine.export.export import export
from woodshed.errors import WoodshedError
from woodshed.types import ExportJob


def main() -> None:
    """Read the job, do it and tell."""
    job = ExportJob.model_validate_json(Path(sys.argv[1]).read_bytes())
    try:
        report = export(job, lambda message: _tell("progress", message))
    except WoodshedError as error:
        _tell("error", str(error))
    else:
        _tell("report", report.model_dump(mode="json"))


def _tell(kind: str, value: object) -> None:
    print(json.dumps({kind: value}), flush=True)


if __name__ == "__main__":
    main()
