"""The texts of tokens, put together, are what the model said, whatever letters they divide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import MODEL
from tokenizers import Tokenizer

from woodshed.view.tokens import _pieces, _splitter

TOKENIZER = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
SPLIT = _splitter(str(MODEL / "tokenizer.json"))


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_pieces_are_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids

    assert "".join(SPLIT(ids)) == TOKENIZER.decode(ids, skip_special_tokens=False)
    assert len(SPLIT(ids)) == len(ids)


@given(st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=120))
def test_every_token_has_a_text_whatever_was_sampled(ids: list[int]) -> None:
    assert len(SPLIT(ids)) == len(ids)


@pytest.mark.parametrize("model", ["", "/nowhere", "nobody/has-this-model", "a/b/c.gguf"])
def test_a_model_that_is_not_here_costs_the_texts_only(model: str, tmp_path: object) -> None:
    pieces, why = _pieces(model, tmp_path)  # type: ignore[arg-type]

    assert pieces is None and why is not None and "tokenizer" in why
