"""Packs of rows → the model's log-probability of every trained token, with gradient.

Shapes: B sequences, N positions, M trained tokens, H distinct (position, temperature) pairs that predict them, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.tokens import Pack, Row, pack_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """As many rows as go through the model at once."""

    input_ids_BN: Tensor
    position_ids_BN: Tensor
    mask_11NN: Tensor | None
    """True where a token may look; None for plain causal rows, padded on the right."""
    columns: Tensor
    """Columns at which logits are needed, in any of the B sequences."""
    heads_H: Tensor
    """For each distinct pair, its index into the logits at B x `columns`, flattened."""
    temperature_H: Tensor
    head_of_M: Tensor
    """Which pair predicts each trained token."""
    token_M: Tensor
    old_logprobs_M: Tensor
    rollout_of_M: Tensor


def micro_batches(
    rows: Sequence[Row], rollout_of: Sequence[int], *, token_budget: int, share: bool, device: torch.device
) -> list[MicroBatch]:
    """Return micro-batches that together hold every row once, of about `token_budget` positions each.

    Args:
        rows: Rows of any rollouts.
        rollout_of: For each row, the index of its rollout.
        token_budget: Positions of a micro-batch, padding included; a longer row goes alone.
        share: Hold each shared prefix once (exact only where `shares_prefixes` says so); otherwise rows of
            similar length are padded to one length.
        device: Where the tensors go.
    """
    ids = [row.token_ids for row in rows]
    packs = pack_rows(ids, token_budget=token_budget, share=share)
    parts = [(pack,) for pack in packs] if share else _by_length(packs, token_budget)
    return [_micro_batch(part, rows, rollout_of, device) for part in parts]


def new_logprobs(model: Any, batch: MicroBatch) -> Tensor:
    """Return the model's log-probability of each trained token, in fp32, at the temperature it was sampled with."""
    logits = model(
        input_ids=batch.input_ids_BN,
        position_ids=batch.position_ids_BN,
        attention_mask=batch.mask_11NN,
        logits_to_keep=batch.columns,
        use_cache=False,
    ).logits.flatten(0, 1)
    if len(batch.heads_H) != len(logits) or not bool((batch.heads_H == _counted(batch.heads_H)).all()):
        logits = logits[batch.heads_H]
    logits_HV = logits.float() / batch.temperature_H[:, None]
    return logits_HV[batch.head_of_M, batch.token_M] - logits_HV.logsumexp(-1)[batch.head_of_M]


def shares_prefixes(model: Any, vocabulary: int, device: torch.device) -> bool:
    """Return whether packed rows give this model's own log-probabilities.

    Tried, not assumed: sliding windows, recurrent layers and models with a mask of their own do not follow a path.
    """
    config = model.config
    if getattr(config, "sliding_window", None) is not None:
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, vocabulary, (40,), generator=generator).tolist()
    rows = [_probe(draw[:16] + draw[a:b]) for a, b in ((16, 24), (24, 30), (30, 40))]
    told: list[list[float]] = []
    with torch.no_grad():
        for share in (False, True):
            batches = micro_batches(rows, range(3), token_budget=10_000, share=share, device=device)
            try:
                found = [(b.rollout_of_M.tolist(), new_logprobs(model, b).tolist()) for b in batches]
            except (TypeError, ValueError, RuntimeError):
                return False
            pairs = [pair for of, logprobs in found for pair in zip(of, logprobs, strict=True)]
            told.append([logprob for _, logprob in sorted(pairs, key=lambda pair: pair[0])])
    close = 1e-4 if next(model.parameters()).dtype == torch.float32 else 0.1
    return all(abs(a - b) < close for a, b in zip(*told, strict=True))


def _probe(ids: list[int]) -> Row:
    count = len(ids)
    return Row(
        token_ids=tuple(ids),
        trained=(False,) + (True,) * (count - 1),
        logprobs=(None,) + (0.0,) * (count - 1),
        weight_versions=(None,) + (0,) * (count - 1),
        temperatures=(None,) + (1.0,) * (count - 1),
        call_ids=(None,) + ("probe",) * (count - 1),
    )


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
    packs: Sequence[Pack], rows: Sequence[Row], rollout_of: Sequence[int], device: torch.device
) -> MicroBatch:
    width = max(len(pack.token_ids) for pack in packs)
    targets = [
        (line, path[k - 1], row.temperatures[k], row.token_ids[k], row.logprobs[k], rollout_of[index])
        for line, pack in enumerate(packs)
        for index, path in zip(pack.rows, pack.paths, strict=True)
        for row in (rows[index],)
        for k, is_trained in enumerate(row.trained)
        if is_trained
    ]
    columns = sorted({column for _, column, *_ in targets})
    place = {column: k for k, column in enumerate(columns)}
    heads = sorted({(line * len(columns) + place[column], heat) for line, column, heat, *_ in targets})
    head_of = {head: k for k, head in enumerate(heads)}

    def tensor(values: Sequence[Any], dtype: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return MicroBatch(
        input_ids_BN=tensor([pack.token_ids + (0,) * (width - len(pack.token_ids)) for pack in packs]),
        position_ids_BN=tensor([pack.depths + (0,) * (width - len(pack.depths)) for pack in packs]),
        mask_11NN=_mask(packs[0], device) if len(packs) == 1 and len(packs[0].rows) > 1 else None,
        columns=tensor(columns),
        heads_H=tensor([at for at, _ in heads]),
        temperature_H=tensor([heat for _, heat in heads], torch.float32),
        head_of_M=tensor([head_of[line * len(columns) + place[c], heat] for line, c, heat, *_ in targets]),
        token_M=tensor([token for *_, token, _, _ in targets]),
        old_logprobs_M=tensor([logprob for *_, logprob, _ in targets], torch.float32),
        rollout_of_M=tensor([rollout for *_, rollout in targets]),
    )


def _mask(pack: Pack, device: torch.device) -> Tensor:
    """Return who sees whom: each token its own path from the root, itself included."""
    size = len(pack.token_ids)
    mask_NN = torch.zeros(size, size, dtype=torch.bool)
    for path, shared in zip(pack.paths, pack.shared, strict=True):
        if shared == len(path):
            continue
        start, end = path[shared], path[-1] + 1
        mask_NN[start:end, torch.tensor(path[:shared], dtype=torch.long)] = True
        mask_NN[start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
    return mask_NN.to(device)[None, None]


def _counted(like: Tensor) -> Tensor:
    return torch.arange(len(like), device=like.device)
