"""On a GPU, too, random trees train as one row at a time; needs nothing but pytest and what the trainer needs."""

from __future__ import annotations

import pytest
import torch
from random_trees import ARCHITECTURES, model, packed, tree


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_trees_on_a_gpu_train_as_one_row_at_a_time(architecture: str) -> None:
    cuda = torch.device("cuda")
    of = model(architecture).to(cuda)
    try:
        for seed in range(8):
            along, tree_gradient = packed(of, tree(seed), "tree", 10_000, device=cuda)
            alone, rows_gradient = packed(of, tree(seed), "rows", 10_000, device=cuda)

            assert along == pytest.approx(alone, abs=2e-3)
            assert (tree_gradient - rows_gradient).norm() <= 5e-3 * rows_gradient.norm()
    finally:
        of.to("cpu")
