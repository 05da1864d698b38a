"""A frozen base model that is split over the ranks, because one card cannot hold it whole (FSDP2, `fully_shard`).

The matrices of the decoder's layers are split; a rank gathers those of one layer at a time, for its forward pass and
again for its backward pass. The LoRA stays whole on every rank, and so do embeddings, last norm and output head.
"""

from __future__ import annotations

from dataclasses import replace
from types import MethodType
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from woodshed.engine.trainer.attention.decoder import ALONG_TREE, decoder_layers, run_layer
from woodshed.engine.trainer.forward import ForwardMode, MicroBatch, micro_batches
from woodshed.engine.trainer.forward_mode import probe_rows
from woodshed.engine.trainer.ranks import Ranks
from woodshed.errors import TrainError


def split_base(model: Any, ranks: Ranks, device: torch.device) -> Any:
    """Return a PEFT model, loaded into main memory, with its base split over the ranks' devices.

    Raises:
        TrainError: The model is not a decoder whose layers are found where transformers keeps them.
    """
    try:
        layers = decoder_layers(model)
    except AttributeError as error:
        raise TrainError(
            f"shard_base=True splits the layers of a decoder, and {type(model).__name__} keeps none in 'model.layers' "
            f"({error}); use shard_base=False"
        ) from error
    mesh = init_device_mesh(device.type, (ranks.count,))
    trained = {p for p in model.parameters() if p.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        # FSDP gathers a layer's weights around its `forward`; attention along the trie goes another way.
        setattr(layer, ALONG_TREE, MethodType(run_layer, layer))
        register_fsdp_forward_method(layer, ALONG_TREE)
    return model.to(device)


def idle_micro_batch(mode: ForwardMode, device: torch.device) -> MicroBatch:
    """Return a micro-batch without a trained token: it changes nothing, and gathers every layer as the others do.

    A layer is gathered from all ranks at once, so those with fewer micro-batches must run as many passes.
    """
    (part,) = micro_batches(probe_rows(2, shared=2, own=(0,)), token_budget=2, mode=mode, device=device)
    return replace(
        part,
        pair_of_M=part.pair_of_M[:0],
        token_M=part.token_M[:0],
        old_logprobs_M=part.old_logprobs_M[:0],
        rollout_of_M=part.rollout_of_M[:0],
        advantages_M=part.advantages_M[:0],
        version_M=part.version_M[:0],
        calls_M=(),
    )
