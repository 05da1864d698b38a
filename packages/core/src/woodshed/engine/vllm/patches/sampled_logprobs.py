"""A short path to the log-probability of the sampled token; runs inside vLLM's own processes and nowhere else.

Every recorded call requests it. vLLM builds a table of the most probable tokens for each step, ranks the sampled one in
it, and wraps each number in objects that are validated and serialized one by one. Where only the sampled token was
requested, the numbers are the same without that work. A caller that does not need the tokens' texts
(`return_tokens_as_token_ids`) gets one plain list, `logprobs.sampled`.

Where what runs: `gather_logprobs` in the worker, `slice_request` in the engine core, the rest in the server. vLLM's
second model runner, the one on a GPU (`vllm/v1/worker/gpu`), does not call `gather_logprobs`: where only the sampled
token was requested, its `compute_topk_scores` builds no table either, and what it returns has the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionLogProbs, ChatCompletionLogProbsContent
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.logprobs import Logprob
from vllm.v1.engine import logprobs as engine_logprobs
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.sample.sampler import Sampler
from vllm.v1.serial_utils import MsgpackDecoder

from woodshed.engine.vllm.patches.replace import replace_function
from woodshed.errors import EngineError

_NOTHING = np.empty(0)
_LOWEST = -9999.0
"""What vLLM writes in place of minus infinity, which JSON does not have."""


def install() -> None:
    """Put the short paths in front of vLLM's own."""
    replace_function(Sampler, "gather_logprobs", _gather)
    replace_function(LogprobsLists, "slice_request", _slice)
    replace_function(MsgpackDecoder, "_decode_ndarray", _decode)
    replace_function(engine_logprobs.LogprobsProcessor, "_update_sample_logprobs", _update)
    replace_function(OpenAIServingChat, "_create_chat_logprobs", _create)


def _gather(original: Callable[..., Any]) -> Callable[..., Any]:
    def gather_logprobs(logprobs: torch.Tensor, num_logprobs: int, token_ids: torch.Tensor) -> Any:
        if num_logprobs != 0:
            return original(logprobs, num_logprobs, token_ids)
        sampled = token_ids.unsqueeze(-1)
        # The rank is left 0: computing it takes a pass over the vocabulary, and no chat completion shows it.
        return LogprobsTensors(sampled.to(torch.int32), logprobs.gather(-1, sampled), torch.zeros_like(token_ids))

    return gather_logprobs


def _slice(original: Callable[..., Any]) -> Callable[..., Any]:
    def slice_request(self: Any, req_idx: int, num_positions: int) -> Any:
        if num_positions != 1 or self.logprobs.shape[1] != 1 or self.cu_num_generated_tokens is not None:
            return original(self, req_idx, num_positions)
        # Two numbers go from vLLM's engine core to its server. Three arrays of one number each would take longer to
        # pack and unpack than everything else about a token.
        sampled = [int(self.logprob_token_ids[req_idx, 0]), float(self.logprobs[req_idx, 0])]
        return LogprobsLists(sampled, None, None, None)

    return slice_request


def _decode(original: Callable[..., Any]) -> Callable[..., Any]:
    def decode_ndarray(self: Any, arr: Any) -> Any:
        if arr is None:
            return _NOTHING
        return np.array(arr) if len(arr) == 2 else original(self, arr)

    return decode_ndarray


def _update(original: Callable[..., None]) -> Callable[..., None]:
    def update(self: Any, logprobs_lists: Any) -> None:
        lists = logprobs_lists
        if self.num_logprobs != 0 or self.tokenizer is None or not isinstance(self.logprobs, list):
            original(self, lists)
            return
        if lists.logprobs is _NOTHING:
            steps: Iterable[Sequence[float]] = [lists.logprob_token_ids.tolist()]
        elif lists.logprobs.shape == (1, 1):
            raise EngineError(
                "vLLM's engine core sends a sampled token's log-probability the long way: `slice_request` is not "
                "patched in its process"
            )
        else:
            # The sampled token comes first; others in its row were requested by other calls of the batch.
            steps = zip(lists.logprob_token_ids[:, 0].tolist(), lists.logprobs[:, 0].tolist(), strict=True)
        for number, logprob in steps:
            token_id = int(number)
            texts = engine_logprobs.convert_ids_list_to_tokens(self.tokenizer, [token_id])
            if texts[0].endswith("\N{REPLACEMENT CHARACTER}"):
                texts = self._verify_tokens(decoded_tokens_list=texts, tokens=[token_id])
            self.cumulative_logprob += logprob
            self.logprobs.append({token_id: Logprob(logprob, None, texts[0])})

    return update


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(
        self: Any,
        token_ids: Sequence[int],
        top_logprobs: Sequence[dict[int, Logprob] | None],
        tokenizer: Any,
        num_output_top_logprobs: int | None = None,
        logprob_token_ids: list[int] | None = None,
        return_as_token_id: bool | None = None,
    ) -> Any:
        steps: list[Any] = [step and step.get(one) for one, step in zip(token_ids, top_logprobs, strict=False)]
        if num_output_top_logprobs or logprob_token_ids or len(steps) != len(token_ids) or None in steps:
            return original(
                self, token_ids, top_logprobs, tokenizer, num_output_top_logprobs, logprob_token_ids, return_as_token_id
            )
        if return_as_token_id:
            sampled = [max(step.logprob, _LOWEST) for step in steps]
            return ChatCompletionLogProbs.model_construct(content=None, sampled=sampled)
        return ChatCompletionLogProbs.model_construct(content=[_content(step) for step in steps])

    return create


def _content(step: Any) -> Any:
    """Return one token in vLLM's own format, without pydantic's validation."""
    text = step.decoded_token
    return ChatCompletionLogProbsContent.model_construct(
        token=text,
        logprob=max(step.logprob, _LOWEST),
        bytes=list(text.encode("utf-8", errors="replace")),
        top_logprobs=[],
    )
