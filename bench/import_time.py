"""How long `import woodshed` takes in a fresh interpreter, and which heavy modules it imports.

Run: .venv/bin/python bench/import_time.py
"""

from __future__ import annotations

import json
import subprocess
import sys

_PROBE = """
import sys, time
began = time.perf_counter()
import woodshed
took = time.perf_counter() - began
import json
names = ("torch", "vllm", "transformers", "openai", "langchain_core", "langgraph", "starlette")
heavy = [m for m in names if m in sys.modules]
print(json.dumps([took, heavy]))
"""
_ROUNDS = 7
_LIMIT_S = 0.3


def main() -> None:
    rounds = [
        json.loads(subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True).stdout)
        for _ in range(_ROUNDS)
    ]
    best = min(took for took, _ in rounds)
    print(f"import woodshed: {best * 1e3:.1f} ms (smallest of {_ROUNDS}; limit {_LIMIT_S * 1e3:.0f} ms)")
    print(f"heavy modules it imports: {rounds[0][1] or 'none'}")
    print(json.dumps({"bench": "import", "seconds": best, "limit_s": _LIMIT_S, "heavy": rounds[0][1]}))


if __name__ == "__main__":
    main()
