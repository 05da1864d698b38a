"""`python -m woodshed.testing.conformance.replay_steps`: take recorded steps again, each in a home of its own.

Standard input holds one `Replay` as JSON per line; for each, a line with the step's report is printed, and the home's
checkpoint holds the parameters. It is the trainer's own code, in one process, to compare what steps make of a policy.
"""

from __future__ import annotations

import sys

from woodshed.engine.trainer.worker_protocol import Replay


def main() -> None:
    """Answer every line of standard input."""
    # torch and transformers take many seconds to import: once for all steps.
    from woodshed.engine.trainer.policy_run import PolicyRun

    for line in sys.stdin:
        asked = Replay.model_validate_json(line)
        print(PolicyRun(asked.start).step(asked.step).model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
