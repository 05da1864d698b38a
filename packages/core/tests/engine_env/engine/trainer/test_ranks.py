"""Promises of several ranks: the gradient, the metrics and the weights of one process, however the work is shared."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import rank_programs
import torch
import torch.distributed
from rank_programs import Found, alone, run_ranks
from torch import Tensor

from woodshed.engine.trainer.checkpoint import Checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _import_once() -> None:
    """Import torch and the rest once, and fork the ranks from there."""
    multiprocessing.set_forkserver_preload(["woodshed.engine.trainer.policy_run"])


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def expected(model_path: str) -> Found:
    """Return what one process finds."""
    return alone(rank_programs.gradients, model_path)


@pytest.mark.parametrize("count", [2, 3])
def test_gradient_and_metrics_are_those_of_one_process(
    model_path: str, tmp_path: Path, expected: Found, count: int
) -> None:
    of_rank = run_ranks(count, rank_programs.gradients, tmp_path / "ranks", model_path)

    for name, one in expected.items():
        # A product of ratios over a whole rollout multiplies their rounding, too.
        bound = 5e-6 if name.startswith("sequence/") else 1e-6
        for several in (found[name] for found in of_rank):
            assert difference(several["gradient"], one["gradient"]) < bound, name
            assert several["loss"] == pytest.approx(one["loss"], rel=1e-5, abs=1e-7)
            assert several["stats"].metrics() == pytest.approx(one["stats"].metrics(), rel=1e-5, abs=1e-6)
            assert several["drift"].metrics() == pytest.approx(one["drift"].metrics(), rel=1e-5)
            assert several["log_ratios"].keys() == one["log_ratios"].keys()
            for rollout, calls in one["log_ratios"].items():
                assert several["log_ratios"][rollout] == {
                    call: pytest.approx(values, abs=2e-4) for call, values in calls.items()
                }
            # Bit-identical, or the ranks would drift apart.
            assert torch.equal(several["gradient"], of_rank[0][name]["gradient"])
    assert [found["grpo/one row"]["parts"] for found in of_rank] == [1] + [0] * (count - 1)
    # The longest row of three trees is one share, so a third rank may have nothing.
    assert sum(found["grpo/uneven"]["parts"] > 0 for found in of_rank) >= 2


def test_resuming_with_other_numbers_of_ranks_gives_the_weights_of_one_process(model_path: str, tmp_path: Path) -> None:
    straight = alone(rank_programs.steps, model_path, str(tmp_path / "one"), 1, 6)
    moved = str(tmp_path / "moved")
    alone(rank_programs.steps, model_path, moved, 1, 2)
    two = run_ranks(2, rank_programs.steps, tmp_path / "ranks", model_path, moved, 3, 4)
    last = alone(rank_programs.steps, model_path, moved, 5, 6)

    assert torch.equal(two[0]["weights"], two[1]["weights"]) and torch.equal(two[0]["optimizer"], two[1]["optimizer"])
    assert two[0]["reports"] == two[1]["reports"] and two[0]["state"] == two[1]["state"]
    assert not torch.distributed.is_initialized()
    assert last["state"].steps == straight["state"].steps == tuple(f"s{k}" for k in range(1, 7))
    assert difference(last["weights"], straight["weights"]) < 1e-4
    assert difference(last["optimizer"], straight["optimizer"]) < 1e-4
    in_two, in_one = two[0]["reports"][0].metrics, straight["reports"][2].metrics
    same = set(in_one) - {name for name in in_one if name.endswith(("_mb", "_seconds", "_per_s"))}
    assert {n: in_two[n] for n in same - {"packed_tokens", "micro_batches"}} == pytest.approx(
        {n: in_one[n] for n in same - {"packed_tokens", "micro_batches"}}, rel=1e-3, abs=1e-5
    )
    assert in_two["micro_batches"] == 2 and in_two["packed_tokens"] >= in_one["packed_tokens"]
    assert Checkpoints(Path(moved)).kept() == Checkpoints(tmp_path / "one").kept()


def test_supervised_steps_and_evaluations_are_shared_too(model_path: str, tmp_path: Path) -> None:
    one = alone(rank_programs.steps, model_path, str(tmp_path / "one"), 1, 2, "supervised")
    several = run_ranks(
        3, rank_programs.steps, tmp_path / "ranks", model_path, str(tmp_path / "three"), 1, 2, "supervised"
    )
    evaluated = run_ranks(2, rank_programs.evaluated, tmp_path / "evaluation", model_path)

    assert difference(several[2]["weights"], one["weights"]) < 1e-4
    assert torch.equal(several[2]["weights"], several[0]["weights"])
    for name in ("loss", "nll", "trained_tokens", "grad_norm"):
        assert several[1]["reports"][1].metrics[name] == pytest.approx(one["reports"][1].metrics[name], rel=1e-5)
    assert evaluated == [pytest.approx(alone(rank_programs.evaluated, model_path), rel=1e-5)] * 2


def test_a_base_that_is_split_over_ranks_gives_the_same_gradient_and_run(
    model_path: str, tmp_path: Path, expected: Found
) -> None:
    # Of these, gspo runs its rows twice, and one rank has no row of the third batch.
    split = run_ranks(2, rank_programs.gradients, tmp_path / "losses", model_path, ("grpo", "gspo"), True)
    one = alone(rank_programs.steps, model_path, str(tmp_path / "one"), 1, 3)
    home = str(tmp_path / "moved")
    alone(rank_programs.steps, model_path, home, 1, 1)
    two = run_ranks(2, rank_programs.steps, tmp_path / "ranks", model_path, home, 2, 2, "policy_gradient", True)
    last = alone(rank_programs.steps, model_path, home, 3, 3)

    for name in split[0]:
        assert difference(split[1][name]["gradient"], expected[name]["gradient"]) < 1e-6, name
        assert split[1][name]["loss"] == pytest.approx(expected[name]["loss"], rel=1e-5, abs=1e-7)
    assert [found["grpo/one row"]["parts"] for found in split] == [1, 0]
    assert torch.equal(two[0]["weights"], two[1]["weights"])
    assert difference(last["weights"], one["weights"]) < 1e-4


@pytest.mark.parametrize(("mode", "checkpointed"), [("tree", True), ("tree", False), ("dense", False), ("rows", False)])
def test_each_rank_holds_its_share_of_a_split_base_in_every_forward_mode(
    model_path: str, tmp_path: Path, expected: Found, mode: str, checkpointed: bool
) -> None:
    for found in run_ranks(2, rank_programs.split, tmp_path / "ranks", model_path, mode, checkpointed):
        assert found["share"] == pytest.approx(0.5, abs=0.02)
        assert difference(found["gradient"], expected["kl and entropy/cut"]["gradient"]) < 2e-6
        assert found["loss"] == pytest.approx(expected["kl and entropy/cut"]["loss"], rel=1e-5)


def test_what_one_rank_refuses_all_refuse(model_path: str, tmp_path: Path) -> None:
    said = run_ranks(2, rank_programs.refused, tmp_path / "ranks", model_path)

    for step, load, unchanged in said:
        assert "the loss is" in step and "no step was taken" in step
        assert "'no/such/folder' cannot be loaded" in load
        assert unchanged
