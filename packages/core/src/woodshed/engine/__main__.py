"""`python -m woodshed.engine --config FILE`: run an engine until it is told to stop.

Standard output carries one JSON object per line: `{"progress": …}` while it starts, then `{"ready": url}`, or
`{"error": …}` and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import uvloop

from woodshed.engine.client.config import EngineConfig
from woodshed.engine.run import run_engine
from woodshed.errors import WoodshedError


def main() -> None:
    """Read the config and run."""
    parser = argparse.ArgumentParser(prog="python -m woodshed.engine", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="an EngineConfig as JSON")
    config = EngineConfig.model_validate_json(parser.parse_args().config.read_text())
    try:
        uvloop.run(run_engine(config, tell))
    except WoodshedError as error:
        tell("error", str(error))
        sys.exit(1)


def tell(kind: str, message: str) -> None:
    """Write one JSON line for the process that started this one."""
    print(json.dumps({kind: message}), flush=True)


if __name__ == "__main__":
    main()
