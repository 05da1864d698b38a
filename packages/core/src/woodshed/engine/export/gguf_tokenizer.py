"""A tokenizer as GGUF holds it: vocabulary, merges, special tokens, chat template, and its way of splitting text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from woodshed.errors import EngineError


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, *, vocabulary: int, instead: str) -> None:
    """Add the tokenizer in `folder`, padded to the size of the model's vocabulary.

    Raises:
        EngineError: It is not a byte-level BPE, or splits text in a way that GGUF has no name for.
    """
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text()) if file.is_file() else {"model": {}}
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise EngineError(
            f"no GGUF file is written with a tokenizer of type {model.get('type')!r}"
            f"{' and byte fallback (SentencePiece)' if model.get('byte_fallback') else ''}; expected a byte-level BPE. "
            f"{instead}"
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(tokenizer["pre_tokenizer"], instead))
    texts = {token_id: (text, gguf.TokenType.NORMAL) for text, token_id in model["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        kind = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        texts[token["id"]] = (token["content"], kind)
    if (beyond := max(texts) + 1) > vocabulary:
        raise EngineError(f"the tokenizer has {beyond} tokens and the model only {vocabulary}. {instead}")
    padded = [texts.get(token_id, (f"[PAD{token_id}]", gguf.TokenType.UNUSED)) for token_id in range(vocabulary)]
    writer.add_token_list([text for text, _ in padded])
    writer.add_token_types([int(kind) for _, kind in padded])
    # Merges, special tokens and the chat template, as the `gguf` package finds them.
    gguf.SpecialVocab(folder, load_merges=True, n_vocab=vocabulary).add_to_gguf(writer, quiet=True)


def _split_name(splitting: Any, instead: str) -> str:
    """Return GGUF's name of the way in which text is split before BPE."""
    parts = splitting["pretokenizers"] if (splitting or {}).get("type") == "Sequence" else [splitting or {}]
    match parts:
        case [{"type": "ByteLevel", "use_regex": True}]:
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}]:
            return "smollm"
        case [{"type": "Split", "pattern": {"Regex": regex}}, {"type": "ByteLevel", "use_regex": False}]:
            for name, known in GGUF_PRE_TOKENIZER_SPLITS.items():
                if known == regex:
                    return str(name)
    raise EngineError(f"GGUF has no name for the way in which this tokenizer splits text ({parts!r}). {instead}")
