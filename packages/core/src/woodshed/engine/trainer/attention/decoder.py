"""The forward pass of a Llama-family decoder over one pack: the model's own layers, with attention along the trie.

It handles layers of the form norm, attention, norm, gated MLP (Llama, Qwen2, Qwen3, Mistral and similar). A model's
name does not decide whether it is one: `forward_mode.choose_forward_mode` compares the log-probabilities.

Shapes: N positions, Q queries (in the last layer only the positions that predict a token), D hidden size, F width of
the MLP, V vocabulary size, H attention heads, K key and value heads, E head size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from woodshed.engine.trainer.attention.kernels import gated_silu, lora_linear, rms_norm, rotary
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
    """
    body = _causal(model).model
    states_ND = body.embed_tokens(input_ids_N)
    angles = _angles(body.rotary_emb, states_ND, position_ids_N)
    *layers, final = body.layers
    for layer in layers:
        states_ND = _run(layer, states_ND, angles, plan, checkpointed)
    return _norm(body.norm, _run(final, states_ND, angles, last, False))


def run_layer(
    layer: Any, states_ND: Tensor, angles: tuple[Tensor, ...], plan: TreePlan, checkpointed: Checkpointed
) -> Tensor:
    """Return a layer's output, for the queries of `plan`."""
    if checkpointed and torch.is_grad_enabled():
        keep = {"context_fn": _keeping_attention} if checkpointed == "selective" else {}
        out: Tensor = checkpoint(
            _layer, layer, states_ND, angles, plan, use_reentrant=False, preserve_rng_state=False, **keep
        )
        return out
    return _layer(layer, states_ND, angles, plan)


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


def _layer(layer: Any, states_ND: Tensor, angles: tuple[Tensor, ...], plan: TreePlan) -> Tensor:
    attention = layer.self_attn
    normed_ND = _norm(layer.input_layernorm, states_ND)
    key_NKE = _heads(attention, "k", normed_ND, angles)
    value_NKE = _linear(attention.v_proj, normed_ND).unflatten(-1, (-1, attention.head_dim))
    if plan.queries is not None:
        query_positions_Q = plan.query_positions_Q
        states_ND, normed_ND = states_ND[query_positions_Q], normed_ND[query_positions_Q]
        angles = tuple(x[query_positions_Q] for x in angles)
    query_QHE = _heads(attention, "q", normed_ND, angles)
    attended_QHE = tree_attention(query_QHE, key_NKE, value_NKE, plan, attention.scaling)
    states_QD = states_ND + _linear(attention.o_proj, attended_QHE.flatten(1))
    return states_QD + _mlp(layer.mlp, _norm(layer.post_attention_layernorm, states_QD))


def _heads(attention: Any, name: str, normed_ND: Tensor, angles: tuple[Tensor, ...]) -> Tensor:
    """Return a layer's queries (name `q`) or keys (`k`), normed if the layer has a norm for them, and rotated."""
    heads_NHE = _linear(getattr(attention, f"{name}_proj"), normed_ND).unflatten(-1, (-1, attention.head_dim))
    if (norm := getattr(attention, f"{name}_norm", None)) is not None:
        heads_NHE = _norm(norm, heads_NHE)
    return rotary(heads_NHE, *angles)


def _mlp(mlp: Any, states_ND: Tensor) -> Tensor:
    if not isinstance(getattr(mlp, "act_fn", None), nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
        out_ND: Tensor = mlp(states_ND[None])[0]
        return out_ND
    gated_NF = gated_silu(_linear(mlp.gate_proj, states_ND), _linear(mlp.up_proj, states_ND))
    return _linear(mlp.down_proj, gated_NF)


def _norm(norm: Any, x: Tensor) -> Tensor:
    # In half precision only the module itself rounds in its own order.
    plain = x.dtype == torch.float32 and hasattr(norm, "variance_epsilon") and not norm.weight.requires_grad
    out: Tensor = rms_norm(x, norm.weight, norm.variance_epsilon) if plain else norm(x)
    return out


def _linear(module: Any, x_ND: Tensor) -> Tensor:
    """Return the output of a linear layer, with or without a LoRA."""
    if not _is_plain_lora(module):
        out_NF: Tensor = module(x_ND)
        return out_NF
    (name,) = module.active_adapters
    base, down, up = module.base_layer, module.lora_A[name], module.lora_B[name]
    return lora_linear(x_ND, base.weight, base.bias, down.weight, up.weight, module.scaling[name])


def _is_plain_lora(module: Any) -> bool:
    """Whether a module is a frozen matrix with one LoRA and nothing else (no dropout, DoRA, …)."""
    if type(module) is not PeftLinear or module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return False
    (name,) = module.active_adapters
    if (
        name not in module.lora_A
        or name in getattr(module, "lora_variant", {})
        or type(module.base_layer) is not nn.Linear
    ):
        return False
    base, up = module.base_layer, module.lora_B[name]
    has_no_extras = isinstance(module.lora_dropout[name], nn.Identity) and up.bias is None
    # PEFT holds a LoRA in fp32 where the matrix is in half precision.
    return has_no_extras and not base.weight.requires_grad and up.weight.dtype in (base.weight.dtype, torch.float32)
