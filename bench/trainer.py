"""One optimizer step of woodshed's trainer and of TRL's GRPOTrainer: same model, tokens and LoRA, in one run.

    python bench/trainer.py [--rounds 3] [--threads 1] [--hidden 256 512] [--cases shared turns]
                            [--precisions fp32 bf16] [--scaling] [--json]

Each trainer runs in a process of its own. They take steps in turn, and the result is the best round in CPU seconds (the
first round of each only warms up). Both compute in the same precision; without this benchmark woodshed uses bf16 on a
CPU only if it is three times as fast. `shared`: rollouts that share 1,024 tokens and have 256 of their own. `turns`:
six turns with tool results and two sub-agents. Memory is a process's peak, including the libraries it imports.

`make bench-train` runs it in an environment that has TRL; without TRL only woodshed's side is measured, and it says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

sys.path.insert(0, str(Path(__file__).parent / "train"))
from scaling import plot

WORKER = Path(__file__).parent / "train" / "worker.py"
ROLLOUTS = 8
SCALING = (2, 4, 8, 16)
TARGETS = {("shared", "speed"): 6.0, ("turns", "speed"): 8.0, ("shared", "memory"): 0.4}


class Worker:
    """One trainer's process."""

    def __init__(self, trainer: str, precision: str, case: str, hidden: int, rollouts: int, threads: int) -> None:
        """Start it and wait until it has loaded."""
        command = [sys.executable, str(WORKER), trainer, precision, case, str(hidden), str(rollouts), str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._answer()

    def send(self, command: str = "step") -> dict[str, float]:
        """Send one line and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended: {self.process.args}")
        answer: dict[str, float] = json.loads(line)
        return answer


def measured(
    trainers: list[str], precision: str, case: str, hidden: int, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Return each trainer's best step and its peak memory, and the operations of woodshed's step."""
    workers = {name: Worker(name, precision, case, hidden, ROLLOUTS, options.threads) for name in trainers}
    try:
        for worker in workers.values():
            worker.send()
        rounds = [{name: worker.send() for name, worker in workers.items()} for _ in range(options.rounds)]
        best = {name: min((r[name] for r in rounds), key=lambda s: s["cpu_s"]) for name in trainers}
        best["ours"] |= {"peak_mb": max(r["ours"]["peak_mb"] for r in rounds), **workers["ours"].send("operations")}
        return best
    finally:
        for worker in workers.values():
            worker.close()


def scaling(case: str, hidden: int, options: argparse.Namespace) -> list[dict[str, float]]:
    """Return woodshed's best step over growing groups."""
    points = []
    for rollouts in SCALING:
        worker = Worker("ours", "fp32", case, hidden, rollouts, options.threads)
        try:
            worker.send()
            best = min((worker.send() for _ in range(options.rounds)), key=lambda s: s["cpu_s"])
        finally:
            worker.close()
        points.append({"rollouts": float(rollouts), **best})
    return points


def show(precision: str, case: str, hidden: int, best: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    ours = best["ours"]
    tokens = f"{ours['row_tokens']:.0f} tokens, {ours['packed_tokens']:.0f} unique"
    print(f"{case}, hidden {hidden}, {precision}: {ROLLOUTS} rollouts, {tokens}")
    for name, took in best.items():
        print(f"  {name:5} {took['cpu_s']:7.2f} CPU s {took['wall_s']:7.2f} s  peak {took['peak_mb']:6.0f} MiB")
    rate = ours["operations"] / ours["cpu_s"]
    share = rate / ours["gemm_rate"]
    plain = ours["gemm_rate"] / 1e9
    print(
        f"  {rate / 1e9:.0f} of {plain:.0f} GFLOP per CPU second: {share:.0%} of a plain matrix product (target 50 %)"
    )
    if "trl" in best:
        speed, memory = best["trl"]["cpu_s"] / ours["cpu_s"], ours["peak_mb"] / best["trl"]["peak_mb"]
        _print_target("times TRL's speed", speed, TARGETS[case, "speed"], speed >= TARGETS[case, "speed"])
        limit = TARGETS.get((case, "memory"))
        _print_target("of TRL's memory", memory, limit, limit is None or memory <= limit)


def _print_target(name: str, measured: float, target: float | None, met: bool) -> None:
    print(f"  {measured:.2f} {name}" + (f" (target {target:g}): {'met' if met else 'MISSED'}" if target else ""))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--cases", nargs="+", default=["shared", "turns"])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--scaling", action="store_true", help="also measure groups of 2, 4, 8 and 16")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the tables")
    options = parser.parse_args()
    trainers = ["ours"] + ["trl"] * (importlib.util.find_spec("trl") is not None)
    everything: dict[str, object] = {}
    for case, hidden, precision in itertools.product(options.cases, options.hidden, options.precisions):
        best = measured(trainers, precision, case, hidden, options)
        everything[f"{case}/{hidden}/{precision}"] = best
        if not options.json:
            show(precision, case, hidden, best)
    if options.scaling:
        everything["scaling"] = points = scaling("turns", options.hidden[0], options)
        for line in () if options.json else plot(points):
            print(line)
    if options.json:
        print(json.dumps(everything))
    elif len(trainers) == 1:
        print("TRL is not installed here, so nothing was compared; `make bench-train` brings it")


if __name__ == "__main__":
    main()
