"""Packs of rows → the model's log-probability of every trained token, with gradient.

Shapes: B sequences, N positions, M trained tokens, P distinct (position, temperature) pairs that predict them, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from woodshed.engine.trainer.attention.decoder import head_weight, predicting_states
from woodshed.engine.trainer.attention.tree import TreePlan
from woodshed.loss.head import token_logprobs
from woodshed.tokens import Pack, Row, pack_rows

ForwardMode = Literal["tree", "dense", "rows"]
"""How rows go through the model: shared prefixes once with attention along the trie; once with a mask of every pair of
positions; or row by row, padded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """As many rows as go through the model at once."""

    input_ids_BN: Tensor
    position_ids_BN: Tensor
    plan: TreePlan | None
    """Who sees whom; None for plain causal rows, padded on the right."""
    columns: Tensor
    """Columns at which logits are needed, in any of the B sequences."""
    heads_P: Tensor
    """For each distinct pair, its index into the logits at B x `columns`, flattened."""
    temperature_P: Tensor
    head_of_M: Tensor
    """Which pair predicts each trained token."""
    token_M: Tensor
    old_logprobs_M: Tensor
    rollout_of_M: Tensor
    advantages_M: Tensor
    version_M: Tensor
    """Version of the weights that sampled each trained token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """What the model says of a micro-batch's trained tokens, in fp32 and at the temperature each was sampled with."""

    logprobs_M: Tensor
    entropies_M: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """A row with what its trained tokens are worth."""

    row: Row
    rollout: int
    """Index of its rollout."""
    advantages: Sequence[float]
    """Advantage of each position of the row; only those of trained tokens are read."""


def micro_batches(
    rows: Sequence[TrainingRow], *, token_budget: int, mode: ForwardMode, device: torch.device
) -> list[MicroBatch]:
    """Return micro-batches that together hold every row once, of about `token_budget` positions each.

    Args:
        rows: Rows of any rollouts.
        token_budget: Positions of a micro-batch, padding included; a longer row goes alone.
        mode: What `choose_forward_mode` chose. For `rows`, those of similar length are padded to one length.
        device: Where the tensors go.
    """
    ids = [row.row.token_ids for row in rows]
    packs = pack_rows(ids, token_budget=token_budget, share=mode != "rows")
    parts = _by_length(packs, token_budget) if mode == "rows" else [(pack,) for pack in packs]
    return [_micro_batch(part, rows, mode, device) for part in parts]


def forward_logprobs(
    model: Any, batch: MicroBatch, mode: ForwardMode, *, entropy: bool = False, checkpointed: bool = False
) -> TokenLogprobs:
    """Return what the model says of the micro-batch's trained tokens, with gradient."""
    if mode == "tree":
        return _forward_along_the_tree(model, batch, entropy=entropy, checkpointed=checkpointed)
    mask_11NN = None if batch.plan is None or len(batch.plan.segments) < 2 else batch.plan.mask_QN[None, None]
    logits = model(
        input_ids=batch.input_ids_BN,
        position_ids=batch.position_ids_BN,
        attention_mask=mask_11NN,
        logits_to_keep=batch.columns,
        use_cache=False,
    ).logits
    if logits.shape[1] != len(batch.columns):  # Unsloth's forward pass makes them all
        logits = logits[:, batch.columns]
    logits = logits.flatten(0, 1)
    logits_PV = _picked(logits, batch.heads_P).float() / batch.temperature_P[:, None]
    log_sum_P = logits_PV.logsumexp(-1)
    entropies_M = None
    if entropy:
        entropies_M = (log_sum_P - torch.linalg.vecdot(logits_PV.softmax(-1), logits_PV))[batch.head_of_M]
    logprobs_M = logits_PV[batch.head_of_M, batch.token_M] - log_sum_P[batch.head_of_M]
    return TokenLogprobs(logprobs_M=logprobs_M, entropies_M=entropies_M)


def _forward_along_the_tree(model: Any, batch: MicroBatch, *, entropy: bool, checkpointed: bool) -> TokenLogprobs:
    assert batch.plan is not None, "a micro-batch of padded rows has no tree"
    last = batch.plan.only(batch.columns.tolist())
    states = predicting_states(
        model, batch.input_ids_BN[0], batch.position_ids_BN[0], batch.plan, last, checkpointed=checkpointed
    )
    logprobs_M, entropy_P = token_logprobs(
        _picked(states, batch.heads_P), head_weight(model), batch.temperature_P, batch.head_of_M, batch.token_M,
        entropy=entropy,
    )  # fmt: skip
    return TokenLogprobs(logprobs_M=logprobs_M, entropies_M=None if entropy_P is None else entropy_P[batch.head_of_M])


def _picked(states: Tensor, heads_P: Tensor) -> Tensor:
    same = len(heads_P) == len(states) and bool((heads_P == torch.arange(len(states), device=states.device)).all())
    return states if same else states[heads_P]


def _by_length(packs: Sequence[Pack], token_budget: int) -> list[tuple[Pack, ...]]:
    """Return packs of one row each in batches of similar length."""
    parts: list[list[Pack]] = []
    for pack in sorted(packs, key=lambda p: len(p.token_ids)):
        if parts and (len(parts[-1]) + 1) * len(pack.token_ids) <= token_budget:
            parts[-1].append(pack)
        else:
            parts.append([pack])
    return [tuple(part) for part in parts]


def _micro_batch(
    packs: Sequence[Pack], rows: Sequence[TrainingRow], mode: ForwardMode, device: torch.device
) -> MicroBatch:
    width = max(len(pack.token_ids) for pack in packs)
    targets = [
        (line, where[k - 1], given.row.temperatures[k], k, given)
        for line, pack in enumerate(packs)
        for index, where in zip(pack.rows, pack.paths, strict=True)
        for given in (rows[index],)
        for k, is_trained in enumerate(given.row.trained)
        if is_trained
    ]
    columns = sorted({column for _, column, *_ in targets})
    place = {column: k for k, column in enumerate(columns)}
    pairs = [(line * len(columns) + place[column], heat) for line, column, heat, *_ in targets]
    heads = sorted(set(pairs))
    head_of = {head: k for k, head in enumerate(heads)}

    def tensor(values: Sequence[Any], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return MicroBatch(
        input_ids_BN=tensor([pack.token_ids + (0,) * (width - len(pack.token_ids)) for pack in packs]),
        position_ids_BN=tensor([pack.depths + (0,) * (width - len(pack.depths)) for pack in packs]),
        plan=None if mode == "rows" else TreePlan(segments=packs[0].segments(), device=device),
        columns=tensor(columns),
        heads_P=tensor([at for at, _ in heads]),
        temperature_P=tensor([heat for _, heat in heads], torch.float32),
        head_of_M=tensor([head_of[pair] for pair in pairs]),
        token_M=tensor([given.row.token_ids[k] for *_, k, given in targets]),
        old_logprobs_M=tensor([given.row.logprobs[k] for *_, k, given in targets], torch.float32),
        rollout_of_M=tensor([given.rollout for *_, given in targets]),
        advantages_M=tensor([given.advantages[k] for *_, k, given in targets], torch.float32),
        version_M=tensor([given.row.weight_versions[k] for *_, k, given in targets]),
    )
