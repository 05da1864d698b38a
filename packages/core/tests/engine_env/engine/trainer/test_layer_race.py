"""Promises of the race between ways to compute layers and head: the fastest that is right is used, never in silence."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from random_trees import ARCHITECTURES, model, one_at_a_time, packed, tree
from tiny_trainer import POLICY, SESSIONS, numbered

from woodshed.engine.trainer import layer_race
from woodshed.engine.trainer.attention.kernels import PLAIN, ElementWise, compiled
from woodshed.engine.trainer.forward import Kernels, kernels_of, use_kernels
from woodshed.engine.trainer.kernel_race import Heads
from woodshed.engine.trainer.layer_race import KernelChoice, _Shapes, _why_not, choose_kernels
from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.transients import transients
from woodshed.engine.trainer.worker_protocol import Start, Step
from woodshed.errors import TrainError
from woodshed.loss.head import head_bytes

CPU = torch.device("cpu")
OF_TORCH = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
"""torch's compiler imports modules that use what torch has deprecated."""
SHAPES = {
    "tiny": _Shapes(heads=Heads(queries=4, keys=2, size=8), width=64, dtype=torch.float32),
    "Qwen2.5 0.5B": _Shapes(heads=Heads(queries=14, keys=2, size=64), width=96, dtype=torch.bfloat16),
    "SmolLM": _Shapes(heads=Heads(queries=9, keys=3, size=64), width=96, dtype=torch.bfloat16),
    "Qwen3 8B": _Shapes(heads=Heads(queries=32, keys=8, size=128), width=96, dtype=torch.bfloat16),
}


def graphs() -> int:
    """Return how many graphs torch's compiler has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def as_if(**changes: Callable[..., Any]) -> ElementWise:
    """Return plain operators, some of them another function."""
    return ElementWise(name="compile", **changes)


@pytest.fixture
def compiles_anew() -> None:
    """Forget what was compiled: one process trains one model, and torch keeps only so many graphs of a function."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose on a CPU as on a GPU, with plain operators in the place of compiled ones."""
    monkeypatch.setattr(layer_race, "_MEASURED", ("cpu",))
    monkeypatch.setattr(layer_race, "compiled", as_if)


@pytest.mark.slow
@OF_TORCH
@pytest.mark.usefixtures("compiles_anew")
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_compiled_kernels_stray_no_further_from_fp32_than_plain_ones(shapes: _Shapes) -> None:
    assert _why_not(compiled(), shapes, CPU) is None
    # Rotation of queries and of keys, the gate, and each of them backward; whole, and for both lengths.
    assert graphs() == 6


@pytest.mark.slow
@OF_TORCH
@pytest.mark.usefixtures("over_paths", "compiles_anew")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_compiled_train_as_one_row_at_a_time_and_nothing_is_compiled_after_the_second_step(
    architecture: str,
) -> None:
    of = copy.deepcopy(model(architecture))
    use_kernels(of, Kernels(layer="compile"))
    made = []
    # Trees of 3 to 70 positions, of which other numbers predict a token.
    for seed in range(14):
        rows = tree(seed)
        expected, plain = one_at_a_time(of, rows)
        for checkpointed in (False, True, "selective"):
            found, along = packed(of, rows, "tree", 10_000, checkpointed)

            assert found == pytest.approx(expected, abs=2e-5)
            assert (along - plain).norm() <= 2e-5 * plain.norm()
        made.append(graphs())

    assert made[1] > 0
    assert made[1:] == [made[1]] * 13


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rotated": lambda x, cos, sin: PLAIN.rotated(x, cos, -sin)}, "rotation"),
        ({"rotated_back": PLAIN.rotated}, "gradient of the rotation"),
        ({"gated": lambda gate, up: PLAIN.gated(gate, up) * 1.02}, "gate"),
        ({"gated_back": lambda to, gate, up: (to * up, PLAIN.gated_back(to, gate, up)[1])}, "gradient of the gate"),
        ({"gated_back": lambda *x: (PLAIN.gated_back(*x)[0], x[0])}, "gradient of the gated values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("shapes", [SHAPES["tiny"], SHAPES["SmolLM"]], ids=["fp32", "bf16"])
def test_wrong_kernel_is_found_and_named(shapes: _Shapes, changes: dict[str, Any], name: str) -> None:
    assert _why_not(as_if(), shapes, CPU) is None
    assert str(_why_not(as_if(**changes), shapes, CPU)).startswith(f"its {name} is off by ")


def test_kernel_that_is_right_for_one_length_only_is_found() -> None:
    first = layer_race._LENGTHS[0]

    def stale(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return PLAIN.gated(gate, up) if len(gate) == first else gate

    assert str(_why_not(as_if(gated=stale), SHAPES["tiny"], CPU)).startswith("its gate is off by ")


def test_cpu_compiles_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_race, "compiled", lambda: pytest.fail("compiled"))

    assert choose_kernels("auto", model("llama"), "tree") == KernelChoice(kernels=Kernels())
    assert choose_kernels("plain", model("llama"), "tree") == KernelChoice(kernels=Kernels())


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize("mode", ["dense", "rows"])
def test_modes_that_run_the_models_own_layers_measure_nothing(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_race, "_best", lambda run, device: pytest.fail("measured"))

    assert choose_kernels("auto", model("llama"), mode) == KernelChoice(kernels=Kernels())


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize(("plain_s", "compile_s", "expected"), [(2e-3, 1e-3, "compile"), (1e-3, 2e-3, "plain")])
def test_faster_kernels_are_used_and_both_times_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plain_s: float, compile_s: float, expected: str
) -> None:
    seconds = {"plain": plain_s, "compile": compile_s}
    monkeypatch.setattr(layer_race, "_best", lambda run, device: seconds[run.args[0].name])
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        choice = choose_kernels("auto", model("llama"), "tree")

    assert (choice.kernels.layer, choice.warning) == (expected, None)
    assert f"'plain' takes {1e3 * plain_s:.2f} ms, 'compile' takes {1e3 * compile_s:.2f} ms; {expected!r} is used" in (
        caplog.text
    )
    assert choose_kernels("compile", model("llama"), "tree").kernels.layer == "compile"
    assert choose_kernels("plain", model("llama"), "tree").kernels.layer == "plain"


@pytest.mark.parametrize(
    "error", [RuntimeError("no C++ compiler\nin sight"), FileNotFoundError("gcc"), ImportError("no triton")]
)
def test_compiler_that_fails_is_warned_of_and_an_error_where_it_was_asked_for(
    error: Exception, model_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(layer_race, "_MEASURED", ("cpu",))
    monkeypatch.setattr(layer_race, "compiled", partial(as_if, gated=failing))
    run = PolicyRun(Start(model_path=model_path, home=str(tmp_path), policy=POLICY, parent_pid=0))
    (warning,) = run.state.warnings
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"

    assert warning.startswith(f"the trainer's kernels are 'plain', not 'compile' ({reason}); ")
    assert run.step(Step(request=numbered(0), sessions=SESSIONS)).trained
    with pytest.raises(TrainError, match=r"^kernels='compile' is not possible here: .*; use kernels='auto'"):
        choose_kernels("compile", model("llama"), "tree")


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [((4.0, 3.0, 2.0, 1.0), 2**28), ((4.0, 1.02, 1.0, 1.0), 2**26), ((1.0, 2.0, 3.0, 4.0), 2**25)],
)
def test_head_holds_as_many_logits_as_is_fastest_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    milliseconds: tuple[float, ...],
    expected: int,
) -> None:
    seconds = {chunk: 1e-3 * took for chunk, took in zip(layer_race._CHUNKS, milliseconds, strict=True)}
    monkeypatch.setattr(layer_race, "available_bytes", lambda device: 2.0**40)
    monkeypatch.setattr(layer_race, "_best", lambda run, device: seconds[run.args[0]])
    weight = torch.zeros(150_000, 2)
    with caplog.at_level(logging.INFO, "woodshed.trainer"):
        assert layer_race._faster_chunk(weight, CPU) == expected

    assert f"{expected // 150_000} are used" in caplog.text


def test_head_holds_no_more_than_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(layer_race, "_best", lambda run, device: tried.append(run.args[0]) or 1.0 / len(tried))
    room = head_bytes(10**6, 150_000, torch.float32, "cpu", chunk_logits=2**26) / layer_race._HEAD_SHARE
    monkeypatch.setattr(layer_race, "available_bytes", lambda device: room)

    assert layer_race._faster_chunk(torch.zeros(150_000, 2), CPU) == 2**26
    assert tried == [2**25, 2**26]


def test_head_of_a_small_vocabulary_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_race, "_best", lambda run, device: pytest.fail("timed"))

    assert layer_race._faster_chunk(torch.zeros(512, 2), CPU) is None


def test_chunks_are_timed_by_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_race, "_CHUNKS", (2**8, 2**9))
    gradients: list[torch.Tensor] = []
    monkeypatch.setattr(layer_race, "_best", lambda run, device: gradients.append(run()) or 1.0)
    weight = torch.randn(61, 16, generator=torch.Generator().manual_seed(0))
    layer_race._faster_chunk(weight, CPU)

    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
    assert gradients[0].abs().sum() > 0


def test_memory_is_foreseen_with_the_chunk_that_is_used() -> None:
    of = copy.deepcopy(model("llama"))
    found = {}
    for logits in (None, 2**9):
        use_kernels(of, Kernels(head_logits=logits))
        found[logits] = transients(of, 61, "tree", CPU, {False: 1.0}, 0.0, lambda run: 0.0)

    assert kernels_of(of).head_logits == 2**9
    assert found[2**9]._head(10**6) == head_bytes(10**6, 61, torch.float32, "cpu", chunk_logits=2**9)
    assert found[None]._head(10**6) == head_bytes(10**6, 61, torch.float32, "cpu")
