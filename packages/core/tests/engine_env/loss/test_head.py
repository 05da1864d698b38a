"""Promises of the fused head: log-probability, entropy and gradient of a full softmax, however it is cut."""

from __future__ import annotations

import pytest
import torch

from woodshed.loss import head
from woodshed.loss.head import token_logprobs

HEADS, HIDDEN, WORDS, TOKENS = 37, 24, 101, 50


@pytest.mark.parametrize("rows", [1, 5, HEADS, 1000])
@pytest.mark.parametrize("entropy", [False, True])
def test_equals_a_full_softmax_in_double_precision(rows: int, entropy: bool) -> None:
    draw = torch.Generator().manual_seed(rows)
    hidden = torch.randn(HEADS, HIDDEN, generator=draw, requires_grad=True)
    weight = torch.randn(WORDS, HIDDEN, generator=draw)
    heat = torch.rand(HEADS, generator=draw) + 0.5
    head_of = torch.randint(0, HEADS, (TOKENS,), generator=draw)
    token = torch.randint(0, WORDS, (TOKENS,), generator=draw)
    worth, bonus = torch.randn(TOKENS, generator=draw), torch.randn(HEADS, generator=draw)

    found, found_entropy = token_logprobs(
        hidden, weight, heat, head_of, token, entropy=entropy, chunk_logits=rows * WORDS
    )
    plain = (hidden.double() @ weight.double().T / heat[:, None]).log_softmax(-1)
    expected, expected_entropy = plain[head_of, token], -(plain.exp() * plain).sum(-1)
    ours, theirs = (found * worth).sum(), (expected * worth).sum()
    if entropy:
        assert found_entropy is not None
        assert torch.allclose(found_entropy.double(), expected_entropy, atol=1e-4)
        ours, theirs = ours + (found_entropy * bonus).sum(), theirs + (expected_entropy * bonus).sum()
    (gradient,) = torch.autograd.grad(ours, hidden)
    (expected_gradient,) = torch.autograd.grad(theirs, hidden)

    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert (gradient - expected_gradient).norm() <= 2e-5 * expected_gradient.norm()
    with torch.no_grad():
        assert torch.allclose(token_logprobs(hidden, weight, heat, head_of, token)[0], found, atol=1e-5)


def test_a_token_the_model_thinks_impossible_has_a_finite_logprob() -> None:
    hidden = torch.tensor([[200.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found, _ = token_logprobs(hidden, weight, torch.ones(1), torch.tensor([0]), torch.tensor([1]))
    (gradient,) = torch.autograd.grad(found.sum(), hidden)

    assert found.item() == pytest.approx(-400.0)
    assert gradient.tolist() == [[-2.0, 0.0]]


def test_logits_of_all_tokens_are_never_made() -> None:
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        cells = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.cells = max(self.cells, out.numel())
            return out

    words, tokens = 8192, 2048
    hidden = torch.randn(tokens, 8, requires_grad=True)
    every = torch.arange(tokens)
    with Largest() as seen:
        found, _ = token_logprobs(hidden, torch.randn(words, 8), torch.ones(tokens), every, every)
        found.sum().backward()

    assert seen.cells <= head._CHUNK_LOGITS["cpu"] < tokens * words / 2
