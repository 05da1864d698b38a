"""What the gateway's store gives: sessions of six calls, opened, recorded, sealed and read back, on SQLite as it is.

    python bench/store.py [--sessions 3000]

One process and one connection, as in the engine, with nothing else going on. A call's record is that of an agent's:
1,200 prompt tokens, 120 sampled ones with their log-probabilities, the messages as text. Processor time, but for the
first line. First and last sixth show whether a fuller file is slower; any other database would need the JSON, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from woodshed.engine.gateway.store import Store
from woodshed.types import Completion, Message, OpenSession, TokenCall

CALLS, PROMPT, ANSWER = 6, 1200, 120
TEXT = "On the third day a customer asked for item 17 and came back twice. " * 90


def call(number: int) -> TokenCall:
    answer = Message(role="assistant", content=TEXT[:500])
    completion = Completion(
        index=0, message=answer, token_ids=tuple(range(5000, 5000 + ANSWER)),
        logprobs=tuple(-0.123456789 * (k % 17) for k in range(ANSWER)), weight_versions=(3,) * ANSWER,
    )  # fmt: skip
    return TokenCall(
        call_id=f"call-{number}", started_s=float(number), latency_s=0.5,
        messages=(Message(role="user", content=TEXT),), prompt_ids=tuple(range(1000, 1000 + PROMPT)),
        completions=(completion,),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=3000)
    count = parser.parse_args().sessions
    calls = [call(number) for number in range(CALLS)]
    began = time.process_time()
    for _ in range(200):
        records = [one.model_dump_json().encode() for one in calls]
    json_s = (time.process_time() - began) / 200 / CALLS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.sqlite"
        store, took, wrote_s, read_s = Store(file), [], 0.0, 0.0
        whole = time.perf_counter()
        for number in range(count):
            began = time.process_time()
            rollout = f"rollout-{number}"
            store.open_session(OpenSession(rollout_id=rollout, policy="policy"), f"secret-{number}")
            opened = time.process_time()
            for one, record in zip(calls, records, strict=True):
                store.record(rollout, one.call_id, one.started_s, record)
            written = time.process_time()
            store.seal(rollout)
            sealed = time.process_time()
            assert len(store.sealed(rollout).calls) == CALLS
            ended = time.process_time()
            wrote_s += written - opened
            read_s += ended - sealed
            took.append(ended - began)
        whole = time.perf_counter() - whole
        size = file.stat().st_size / count
        store.close()
    of_core, first, last = count / sum(took), took[: count // 6], took[-(count // 6) :]
    print(f"{count / whole:,.0f} sessions/s by the clock, {size / 1024:.0f} KiB each")
    print(
        f"{of_core:,.0f} sessions, {CALLS * of_core:,.0f} calls for a second of processor time; first sixth "
        f"{len(first) / sum(first):,.0f} sessions, last sixth {len(last) / sum(last):,.0f}"
    )
    print(
        f"of a call: {1e3 * wrote_s / count / CALLS:.3f} ms writing its record, {1e3 * json_s:.3f} ms making it JSON; "
        f"{1e3 * read_s / count / CALLS:.3f} ms reading it back"
    )


if __name__ == "__main__":
    main()
