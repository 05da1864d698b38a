"""The forward pass of a Llama-family decoder over one pack: the model's own layers, with attention along the trie.

It handles layers of the form norm, attention, norm, gated MLP (Llama, Qwen2, Qwen3, Mistral and similar). A model's
name does not decide whether it is one: `forward_mode.choose_forward_mode` compares the log-probabilities.

Shapes: N positions, Q queries (in the last layer only the positions that predict a token), D hidden size, F width of
the MLP, V vocabulary size, H attention heads, K key and value heads, E head size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from woodshed.engine.trainer.attention.kernels import PLAIN, ElementWise, gated_silu, rms_norm, rotary
from woodshed.engine.trainer.attention.lora import (
    GROUPS,
    GROUPS_OF_FEW_QUERIES,
    HalfLoras,
    half_loras,
    linears,
    module_of,
)
from woodshed.engine.trainer.attention.path_attention import attention_operators
from woodshed.engine.trainer.attention.tree import TreePlan, tree_attention

ALONG_TREE = "run_along_tree"
"""Method that a layer has instead of `run_layer` where its weights must be gathered first (`sharding`)."""

Checkpointed = bool | Literal["selective"]
"""Whether layers run again in their backward pass, keeping only their inputs; `selective` keeps their attention, too,
which is then computed once (over paths only)."""


def predicting_states(
    model: Any,
    input_ids_N: Tensor,
    position_ids_N: Tensor,
    plan: TreePlan,
    last: TreePlan,
    *,
    checkpointed: Checkpointed = False,
    by: ElementWise = PLAIN,
) -> Tensor:
    """Return the last hidden states, Q x D, of the queries of `last`.

    Args:
        model: A PEFT model around a causal language model.
        input_ids_N: The pack's tokens.
        position_ids_N: Position of each token in its row(s).
        plan: Which positions attend to which.
        last: The plan of the last layer, whose queries are only the positions that predict a token.
        checkpointed: Whether to keep only each layer's input, and its attention if `selective`, and run the layer
            again in its backward pass.
        by: How what lies between a layer's matrix products is computed.
    """
    body = _causal(model).model
    states_ND = body.embed_tokens(input_ids_N)
    angles = _angles(body.rotary_emb, states_ND, position_ids_N)
    *layers, final = body.layers
    *loras, of_final = half_loras([*layers, final], [GROUPS] * len(layers) + [GROUPS_OF_FEW_QUERIES])
    for layer, lora in zip(layers, loras, strict=True):
        states_ND = _run(layer, states_ND, angles, plan, checkpointed, lora, by)
    return _norm(body.norm, _run(final, states_ND, angles, last, False, of_final, by))


def run_layer(
    layer: Any, states_ND: Tensor, angles: tuple[Tensor, ...], plan: TreePlan, checkpointed: Checkpointed,
    lora: HalfLoras, by: ElementWise,
) -> Tensor:  # fmt: skip
    """Return a layer's output, for the queries of `plan`."""
    if checkpointed and torch.is_grad_enabled():
        keep = {"context_fn": _keeping_attention} if checkpointed == "selective" else {}
        out: Tensor = checkpoint(
            _layer, layer, states_ND, angles, plan, lora, by, use_reentrant=False, preserve_rng_state=False, **keep
        )
        return out
    return _layer(layer, states_ND, angles, plan, lora, by)


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder's layers, first to last.

    Raises:
        AttributeError: It keeps them elsewhere.
    """
    return list(_causal(model).model.layers)


def _keeping_attention() -> Any:
    """Return the contexts in which a layer runs twice, its attention once."""
    return create_selective_checkpoint_contexts(attention_operators())


def head_weight(model: Any) -> Tensor:
    """Return the matrix (V x D) from hidden states to logits.

    Raises:
        TypeError: The output head is more than a frozen matrix.
    """
    head = _causal(model).lm_head
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        raise TypeError(f"the output head is {type(head).__name__}, expected a frozen matrix without bias")
    return head.weight.detach()


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _angles(rotation: Any, states_ND: Tensor, position_ids_N: Tensor) -> tuple[Tensor, ...]:
    """Return the cosines and sines, N x E, of each position."""
    if not hasattr(rotation, "get_cached"):
        return tuple(x[0] for x in rotation(states_ND[None], position_ids_N[None]))
    # Unsloth's rotation holds a table for all positions up to a length, one for each GPU.
    length = int(position_ids_N.max()) + 1
    rotation.extend_rope_embedding(states_ND, seq_len=length)
    return tuple(
        x[position_ids_N].to(states_ND.dtype) for x in rotation.get_cached(length, states_ND.device.index or 0)
    )


def _run(layer: Any, *values: Any) -> Tensor:
    run = getattr(layer, ALONG_TREE, None)
    out: Tensor = run_layer(layer, *values) if run is None else run(*values)
    return out


def _layer(
    layer: Any, states_ND: Tensor, angles: tuple[Tensor, ...], plan: TreePlan, lora: HalfLoras, by: ElementWise
) -> Tensor:
    attention = layer.self_attn

    def projected(x_ND: Tensor, *names: str) -> tuple[Tensor, ...]:
        return linears([module_of(layer, name) for name in names], x_ND, lora.get(names))

    def heads(name: str, x_NF: Tensor, angles: tuple[Tensor, ...]) -> Tensor:
        """Return queries (`q`) or keys (`k`), normed if the layer has a norm for them, and rotated."""
        heads_NHE = x_NF.unflatten(-1, (-1, attention.head_dim))
        if (norm := getattr(attention, f"{name}_norm", None)) is not None:
            heads_NHE = _norm(norm, heads_NHE)
        return rotary(heads_NHE, *angles, by=by)

    normed_ND = _norm(layer.input_layernorm, states_ND)
    if plan.queries is None:
        query_QF, key_NF, value_NF = projected(normed_ND, "q_proj", "k_proj", "v_proj")
        query_angles = angles
    else:
        at = plan.query_positions_Q
        key_NF, value_NF = projected(normed_ND, "k_proj", "v_proj")
        (query_QF,) = projected(normed_ND[at], "q_proj")
        states_ND, query_angles = states_ND[at], tuple(x[at] for x in angles)
    key_NKE, query_QHE = heads("k", key_NF, angles), heads("q", query_QF, query_angles)
    value_NKE = value_NF.unflatten(-1, (-1, attention.head_dim))
    attended_QHE = tree_attention(query_QHE, key_NKE, value_NKE, plan, attention.scaling)
    (out_QD,) = projected(attended_QHE.flatten(1), "o_proj")
    states_QD = states_ND + out_QD
    normed_QD = _norm(layer.post_attention_layernorm, states_QD)
    if not _is_gated_silu(layer.mlp):
        return states_QD + layer.mlp(normed_QD[None])[0]
    gated_QF = gated_silu(*projected(normed_QD, "gate_proj", "up_proj"), by=by)
    return states_QD + projected(gated_QF, "down_proj")[0]


def _is_gated_silu(mlp: Any) -> bool:
    return isinstance(getattr(mlp, "act_fn", None), nn.SiLU) or type(mlp.act_fn).__name__ == "SiLUActivation"


def _norm(norm: Any, x: Tensor) -> Tensor:
    is_plain = hasattr(norm, "variance_epsilon") and not norm.weight.requires_grad
    out: Tensor = rms_norm(x, norm.weight, norm.variance_epsilon) if is_plain else norm(x)
    return out
