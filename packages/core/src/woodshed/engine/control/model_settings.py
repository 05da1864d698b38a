"""How a model is served, as a run compares it with what it asks for."""

from __future__ import annotations

from woodshed.engine.client.config import ServedModel
from woodshed.engine.client.fingerprint import file_hash, fingerprint
from woodshed.engine.vllm.command import dtype_for
from woodshed.engine.vllm.model_server import ModelServer
from woodshed.types import ModelSettings


class SettingsOf:
    """The settings of one served model; what its files hold is read once."""

    def __init__(self, model: ServedModel, *, gpu: bool) -> None:
        """Read the model's files."""
        dtype = dtype_for(model, gpu=gpu)
        self._settings = ModelSettings(
            model=model.path,
            fingerprint=None if model.is_hub_name() else fingerprint(model.path),
            trainable=model.trainable,
            max_model_len=model.max_model_len,
            tool_call_parser=model.tool_call_parser,
            reasoning_parser=model.reasoning_parser,
            chat_template=model.chat_template,
            chat_template_hash=None if model.chat_template is None else file_hash(model.chat_template),
            dtype=None if dtype == "auto" else dtype,
            max_lora_rank=model.max_lora_rank,
            lora_slots=model.lora_slots,
            replicas=model.replicas,
        )

    def now(self, server: ModelServer) -> ModelSettings:
        """Return them with what vLLM itself has said since it started."""
        return self._settings.model_copy(update={"max_model_len": server.max_model_len})
