"""Everything that is claimed of a GPU, measured on one card in six minutes: one table.

    python bench/gpu.py [--seconds 360] [--only trainer engine demo] [--json FILE]

- `trainer`: one optimizer step in bfloat16 of woodshed, of TRL's GRPOTrainer, of woodshed with half of the memory that
  TRL took (where it took more by itself: it uses what there is), of TRL's AsyncGRPO (its packed loss), of woodshed with
  Unsloth and of woodshed without compiled kernels, each in a process of its own on the same random model, rollouts and
  LoRA: tokens of all rollouts a second, TFLOP/s of what it computes, share of what a plain bf16 product reaches here,
  peak memory.
- `engine`: seconds to start two models on the card, drift in bf16 before and after steps, a LoRA swapped under load,
  and the same with `gpu_sharing="sleep"`.
- `demo`: `make demo`, as it prints.

A rival that is not installed, or cannot run here, is a row that says so. What no time is left for is named. Without a
GPU the same code runs on tiny shapes: that checks it, and measures nothing. The exit status is 1 if a row of ours
fails.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if importlib.util.find_spec("torch") is None:
    from woodshed.engine.client.provision import engine_python

    sys.exit(subprocess.run([str(engine_python()), *sys.argv], check=False).returncode)

sys.path.insert(0, str(Path(__file__).parent / "card"))
from cases import CASES

CARD = Path(__file__).parent / "card"

TRAINERS = {
    "ours": "woodshed", "trl": "TRL GRPOTrainer", "half": "woodshed, TRL's half", "async": "TRL AsyncGRPO, packed",
    "unsloth": "woodshed + Unsloth", "plain": "woodshed, kernels plain",
}  # fmt: skip
OURS = ("ours", "half", "plain")
ROWS = [("0.5B", "shared"), ("0.5B", "turns"), ("3B", "turns")]
TINY_ROWS = [("tiny", "tiny-shared"), ("tiny", "tiny-turns")]
CHECKPOINTED = {"3B"}
"""Models with which the rivals checkpoint: without it they do not fit on a card of 80 GB."""
STEPS = 4
ENGINE_S, DEMO_S = 75.0, 60.0
"""Seconds that are kept for the parts after the trainers."""


@dataclass
class Clock:
    """What is left of the time; what there was none for."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    left_out: list[str] = field(default_factory=list)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)


def run(name: str, arguments: list[str], limit_s: float) -> dict[str, Any]:
    """Return what a script of `card/` prints: figures, or why there are none."""
    command = [sys.executable, str(CARD / name), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(5.0, limit_s), check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {limit_s:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        return {"failed": f"exit status {done.returncode}: {last[0][:160]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    if "failed" in found:
        print(done.stderr[-2000:], file=sys.stderr)
    return found


def bf16_peak(device: str) -> float:
    """Return the TFLOP/s of a plain bf16 product on this machine, best of eight."""
    import torch

    size = 8192 if device == "cuda" else 512
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e12


def trainers(clock: Clock, *, gpu: bool, after_s: float) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield model, case, trainer and figures; ours first, in case that time runs out."""
    rows = ROWS if gpu else TINY_ROWS
    peaks: dict[tuple[str, str, str], float] = {}
    for who in TRAINERS:
        for model, case in rows:
            half = peaks.get((model, case, "trl"), 0.0) / 2
            if who == "half" and gpu and not 0 < half < peaks.get((model, case, "ours"), 0.0):
                continue
            if (left := clock.left() - after_s) < 15:
                clock.left_out.append(f"{TRAINERS[who]} {model} {case}")
                continue
            options = ["checkpoint"] if model in CHECKPOINTED and who not in OURS else []
            limit = [f"limit={half or 1.0}"] if who == "half" else []
            found = run("step.py", [who, model, case, str(STEPS), *options, *limit], left)
            peaks[model, case, who] = found.get("peak_gib", 0.0)
            yield model, case, who, found


def show(model: str, case: str, who: str, found: dict[str, Any], peak: float) -> None:
    """Print one row."""
    head = f"{model:5} {CASES[case].said():32} {TRAINERS[who]:22}"
    if why := found.get("absent") or found.get("failed"):
        print(f"{head} {'absent' if 'absent' in found else 'FAILED'}: {why}", flush=True)
        return
    print(
        f"{head} {found['seconds']:7.3f} s {found['tokens_per_s']:9,.0f} tok/s {found['tflops']:7.1f} TFLOP/s "
        f"{found['tflops'] / peak:6.1%} {found['peak_gib']:6.1f} GiB  first {found['first_s']:.1f} s  {found['note']}",
        flush=True,
    )


def show_engine(sharing: str, found: dict[str, Any]) -> None:
    """Print the engine's figures."""
    if why := found.get("failed"):
        print(f"engine, {sharing}: FAILED: {why}", flush=True)
        return
    slept = (
        f"; asleep in {found['asleep_s']:.1f} s, awake in {found['awake_s']:.1f} s, "
        f"keeps {found.get('sleep_keeps_gib', float('nan')):.1f} GiB"
        if "asleep_s" in found
        else ""
    )
    print(
        f"engine, {sharing}: two models ready after {found['start_s']:.0f} s, "
        f"trainer after {found['trainer_start_s']:.0f} s; drift {found['drift_before']:.4f} before "
        f"and {found['drift_after']:.4f} after {found['swaps']} swaps under load "
        f"({found['load_tokens_per_s']:,.0f} tok/s, {found['load_failed']} calls failed, "
        f"{found['restarts']} restarts); step {found['step_s']:.2f} s{slept}",
        flush=True,
    )


def demo(clock: Clock, *, gpu: bool) -> dict[str, Any]:
    """Run the demo and return its last lines; without a GPU it is only checked that it is installed."""
    if not gpu:
        return {"absent": "only on a GPU here; `make demo` runs it"}
    command = [sys.executable, "-m", "woodshed", "demo", "--run-dir", "runs/gpu-demo", "--fresh"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(5.0, clock.left()), check=False)
    except subprocess.TimeoutExpired:
        return {"failed": "no time was left"}
    return {
        "lines": done.stdout.strip().splitlines()[-8:],
        **({"failed": done.stderr[-300:]} if done.returncode else {}),
    }


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=360.0, help="time for everything (360)")
    parser.add_argument(
        "--only", nargs="+", choices=["trainer", "engine", "demo"], default=["trainer", "engine", "demo"]
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file, too")
    asked = parser.parse_args()
    import torch

    gpu, clock = torch.cuda.is_available(), Clock(asked.seconds)
    device = "cuda" if gpu else "cpu"
    peak, everything, failed = bf16_peak(device), [], []
    if gpu:
        card = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        print(f"{card}: a plain bf16 product reaches {peak:,.0f} TFLOP/s")
    else:
        print("NO GPU: tiny shapes on the CPU check this code; the figures mean nothing")
    if "trainer" in asked.only:
        after_s = ENGINE_S * ("engine" in asked.only) + DEMO_S * ("demo" in asked.only and gpu)
        for model, case, who, found in trainers(clock, gpu=gpu, after_s=after_s if gpu else 0.0):
            show(model, case, who, found, peak)
            everything.append({"model": model, "case": case, "who": who, **found})
            failed += [f"{who} {model} {case}"] if who in OURS and "failed" in found else []
    if "engine" in asked.only:
        for sharing in ("split", "sleep") if gpu else ("split",):
            found = run("engine_part.py", ["0.5B" if gpu else "tiny", sharing], clock.left() if gpu else 600.0)
            show_engine(sharing, found)
            everything.append({"engine": sharing, **found})
            failed += [f"engine {sharing}"] if "failed" in found else []
    if "demo" in asked.only:
        found = demo(clock, gpu=gpu)
        print("demo:", *found.get("lines", [found.get("absent") or found.get("failed")]), sep="\n  ")
        everything.append({"demo": found})
        failed += ["demo"] if "failed" in found else []
    if clock.left_out:
        print("no time for:", ", ".join(clock.left_out))
    if asked.json:
        asked.json.write_text(json.dumps({"peak_tflops": peak, "rows": everything}, indent=2))
    print(f"{time.monotonic() - clock.began:.0f} s" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
