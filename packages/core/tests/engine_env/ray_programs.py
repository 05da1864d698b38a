"""What the ranks of a test do on a Ray cluster, each in a worker of Ray Train."""

from __future__ import annotations

import os
from pathlib import Path

import rank_programs
import torch

from woodshed.engine.trainer.ray_rank import ranks_of_ray


def gradients(settings: dict[str, str]) -> None:
    """Write the gradients that a rank finds, with the base whole and split, and the interface that Gloo uses."""
    torch.set_num_threads(1)
    ranks, model = ranks_of_ray(), settings["model"]
    found = {
        "whole": rank_programs.gradients(ranks, model, ("grpo", "gspo", "kl and entropy")),
        "split": rank_programs.gradients(ranks, model, ("grpo",), True),
        "interface": os.environ["GLOO_SOCKET_IFNAME"],
    }
    torch.save(found, Path(settings["folder"]) / f"{ranks.rank}.pt")
