"""What becomes of every setting of a chat request, and of a model class of a framework, in a rollout.

One table for the adapters, which meet settings in a framework's objects, and for the gateway, which meets them in the
body of a request. `docs/settings.md` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Fate = Literal["kept", "mapped", "dropped", "refused"]
Place = Literal["request", "model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSetting:
    """What becomes of some settings, and why."""

    names: tuple[str, ...]
    place: Place
    """`request`: a field of the body of a chat completion, by whatever server it is understood. `model`: a field of a
    framework's model class, or an argument of its client, that is not itself in the body."""
    fate: Fate
    """`kept`: in effect. `mapped`: in effect under another name. `dropped`: without effect, and logged once a run.
    `refused`: an error that names it, since the agent would be another one without it."""
    why: str
    to: str | None = None
    """What it is mapped to: a field of the request, or words."""
    idle: tuple[Any, ...] = ()
    """Values that ask for nothing: with one of them the setting is left out without a word."""


def _rows(place: Place, fate: Fate, names: str, why: str, *, to: str | None = None, idle: Any = ()) -> ChatSetting:
    return ChatSetting(names=tuple(names.split()), place=place, fate=fate, why=why, to=to, idle=idle)


_SERVICE = "it is for the provider's service (bills, caches, speed, logs) and changes no answer"
_THINKING = "how long the policy thinks is what training changes; its chat template takes `chat_template_kwargs`"
_OTHER_TOKENS = "its token ids and words are of the author's model; of the policy's vocabulary it would move others"
_FILTER = "it is a filter of the provider's; the policy's answers are not filtered"
_SEARCH = "the provider searches the web for it; give the agent a function tool that searches"
_OTHER_ANSWER = "it asks for another answer than the one that is sampled, recorded and trained"
_TRANSPORT = "it changes requests to the provider; those to the engine go by woodshed's own client"
_PATIENCE = (
    "woodshed's own limit applies (600 s for an answer): a busy or restarting engine must not look like a failure of "
    "the agent's"
)
_OWN = "the framework's own business, done as outside a rollout"
_PRICE = "it is about a bill of the provider's; the policy has none"
_STATE = "it is state that only the provider's servers keep; every call of the policy carries its whole conversation"

CHAT_SETTINGS: tuple[ChatSetting, ...] = (
    # What is sampled. While the policy is trained, the run's own values win over those that it sets.
    _rows("request", "kept", "model messages tools tool_choice parallel_tool_calls stream stream_options n stop "
          "max_tokens max_completion_tokens temperature top_p top_k min_p seed logprobs top_logprobs "
          "chat_template_kwargs stop_token_ids ignore_eos include_stop_str_in_output",
          "as asked; in training the run's temperature, top_p, top_k, min_p and max_tokens win, and the seed is left "
          "out"),
    _rows("request", "kept", "response_format structured_outputs presence_penalty frequency_penalty "
          "repetition_penalty min_tokens",
          "as asked; what it constrains is judged and not trained, since its log-probabilities are not the policy's"),
    _rows("request", "mapped", "max_output_tokens max_new_tokens num_predict max_tokens_to_sample",
          "another provider's word", to="max_tokens"),
    _rows("request", "mapped", "stop_sequences", "another provider's word", to="stop"),
    _rows("request", "mapped", "random_seed", "another provider's word", to="seed"),
    _rows("request", "dropped", "logit_bias", _OTHER_TOKENS, idle=({},)),
    _rows("request", "dropped", "reasoning_effort reasoning thinking thinking_config thinking_budget enable_thinking "
          "include_reasoning thinking_token_budget think effort", _THINKING),
    _rows("request", "dropped", "verbosity", "the provider's models know it; the policy reads its messages alone",
          idle=("medium",)),
    _rows("request", "dropped", "top_a typical_p mirostat mirostat_tau mirostat_eta tfs_z repeat_penalty "
          "repeat_last_n no_repeat_ngram_size", "a way of sampling that the engine does not have"),
    # The provider's service.
    _rows("request", "dropped", "user metadata safety_identifier prompt_cache_key prompt_cache_retention "
          "prompt_cache_options inference_geo user_profile_id", _SERVICE),
    _rows("request", "dropped", "store", _SERVICE, idle=(False,)),
    _rows("request", "dropped", "service_tier", _SERVICE, idle=("auto", "default")),
    _rows("request", "dropped", "prediction priority cache_salt request_id session_id cache_control usage keep_alive "
          "request_timeout_ms moderation labels", _SERVICE),
    _rows("request", "dropped", "provider models route transforms routing routing_config model_selection_config",
          "it chooses among a provider's models; in a rollout the policy answers"),
    _rows("request", "dropped", "safe_prompt safety_settings guardrails guardrail_config guardrailConfig "
          "model_armor_config content_filter", _FILTER),
    _rows("request", "dropped", "options", "the settings of an Ollama server; write them as fields of the request"),
    # What another agent would be without.
    _rows("request", "refused", "audio", "the policy answers in text", idle=({},)),
    _rows("request", "refused", "modalities", "the policy answers in text", idle=(["text"],)),
    _rows("request", "refused", "functions function_call", "OpenAI's old way to call tools; use `tools`",
          idle=([], {})),
    _rows("request", "refused", "web_search_options search_parameters plugins enable_search", _SEARCH, idle=([],)),
    _rows("request", "refused", "best_of use_beam_search length_penalty echo allowed_token_ids bad_words "
          "logprob_token_ids prompt_logprobs continue_final_message add_special_tokens truncate_prompt_tokens "
          "chat_template documents", _OTHER_ANSWER, idle=(False, 1, 1.0, [])),
    _rows("request", "refused", "skip_special_tokens spaces_between_special_tokens add_generation_prompt",
          _OTHER_ANSWER, idle=(True,)),
    _rows("request", "refused", "guided_json guided_regex guided_choice guided_grammar",
          "vLLM's old names; use `structured_outputs` or `response_format`"),
    # Arguments of a client and fields of model classes.
    _rows("model", "mapped", "extra_body model_kwargs additional_params", "every field in it is looked "
          "up in this table", to="the request", idle=({},)),
    _rows("model", "kept", "extra_headers headers", "sent along, but for those that say whose call it is (such as "
          "`authorization`)"),
    _rows("model", "kept", "max_retries num_retries retry_options", "as many further tries of a failed request"),
    _rows("model", "mapped", "api_key openai_api_key anthropic_api_key base_url openai_api_base api_base "
          "anthropic_api_url api_version openai_api_version openai_api_type azure_endpoint deployment_name "
          "azure_deployment deployment_id model_version validate_base_url azure_ad_token azure_ad_token_provider "
          "azure_ad_async_token_provider openai_organization organization project location openai_proxy "
          "anthropic_proxy custom_llm_provider use_litellm_proxy use_vertexai region_name custom_openai client "
          "llm_client async_client root_client root_async_client model_list aws_access_key_id aws_secret_access_key "
          "aws_session_token aws_region_name aws_profile_name vertex_project vertex_location vertex_credentials "
          "account_identifier account_url database schema_name warehouse role",
          "the policy answers in place of the author's provider", to="the rollout's address and secret"),
    _rows("model", "mapped", "model_name model_id tiktoken_model_name is_litellm llm_type is_gpt4_model is_o1_model "
          "is_claude_3 is_gemini_2_0 is_anthropic base_model provider", "recorded with the call, as the author's model",
          to="the policy"),
    _rows("model", "dropped", "timeout request_timeout default_request_timeout stream_timeout stream_chunk_timeout "
          "force_timeout", _PATIENCE),
    _rows("model", "dropped", "interceptor http_client http_async_client http_socket_options http_options "
          "default_headers default_query extra_query client_params client_kwargs transport ssl_verify shared_session "
          "betas client_args async_client_args httpx_client httpx_async_client aiohttp_client base_url_resource_scope",
          _TRANSPORT, idle=({}, [])),
    _rows("model", "dropped", "rate_limiter rpm tpm max_parallel_requests cooldown_time",
          "it paces requests to the provider; the engine queues them itself"),
    _rows("model", "dropped", "cache caching enable_prompt_caching", "an answer from a cache was not sampled by the "
          "policy", idle=(False,)),
    _rows("model", "dropped", "fallbacks context_window_fallback_dict mock_response retry_policy retry_strategy",
          "in a rollout the policy answers, and no other model in its place", idle=([], {})),
    _rows("model", "dropped", "use_previous_response_id previous_response_id auto_chain auto_chain_reasoning "
          "continuation_token automatic_continuation container reuse_last_container context_management truncation",
          _STATE, idle=(False,)),
    _rows("model", "dropped", "include include_response_metadata include_response_headers parse_tool_outputs "
          "should_return_http_response extra_request_args audio_timestamp audio_transcription_config speech_config "
          "image_config media_resolution enable_enhanced_civic_answers generation_output_config tool_search "
          "use_interactions_api include_server_side_tool_invocations",
          "only the provider's own interface has it; a chat completion of text does not", idle=(False, [], {})),
    _rows("model", "dropped", "instructions", "an argument of the Responses API, and the policy is asked for a chat "
          "completion; put the words into the agent's own instructions"),
    _rows("model", "dropped", "input_cost_per_token output_cost_per_token max_budget budget_duration", _PRICE),
    _rows("model", "dropped", "litellm_metadata litellm_session_id litellm_trace_id litellm_call_id", _SERVICE),
    _rows("model", "refused", "builtin_tools mcp_servers cached_content", "only the provider has it; give the agent a "
          "function tool or the text", idle=([],)),
    _rows("model", "kept", "callbacks tags metadata name verbose profile disable_streaming streaming stream_usage "
          "output_version custom_get_token_ids disabled_params use_responses_api api supports_tools prefer_upload "
          "context_window_size completion_cost drop_params additional_drop_params allowed_openai_params "
          "automatic_function_calling enable_json_schema_validation", _OWN),
    _rows("model", "mapped", "system_instruction", "Google's word", to="messages"),
    _rows("model", "mapped", "tool_config", "Google's word", to="tool_choice"),
    _rows("model", "mapped", "candidate_count", "Google's word; more than one is refused", to="n"),
    _rows("model", "mapped", "response_logprobs", "Google's word", to="logprobs"),
    _rows("model", "mapped", "response_modalities", "Google's word; anything but text is refused", to="modalities"),
    _rows("model", "mapped", "response_schema response_json_schema response_mime_type output_config output_format",
          "another provider's word", to="response_format"),
)  # fmt: skip
"""The table. A setting in no row is not known: the gateway refuses it by name, an adapter drops and logs it."""

REQUEST_SETTINGS = MappingProxyType({n: row for row in CHAT_SETTINGS if row.place == "request" for n in row.names})
"""Name → row, of the fields of a request's body."""
MODEL_SETTINGS = MappingProxyType({n: row for row in CHAT_SETTINGS if row.place == "model" for n in row.names})
"""Name → row, of what only frameworks and clients know."""


def is_idle(value: Any, row: ChatSetting | None) -> bool:
    """Return whether a setting's value asks for nothing."""
    # `False == 0` and `1.0 == True`, so the kind is compared, too.
    if value is None or row is None or not row.idle:
        return value is None
    return any(type(value) is type(idle) and value == idle for idle in row.idle)
