"""The attribute names of spans, pinned: OpenInference's by its package, OpenTelemetry's GenAI conventions here.

The GenAI conventions are in development and rename attributes between releases; `opentelemetry-semantic-conventions`
has them in a private module only. So the few that are written or read are listed here, as of its release 0.65b0, and
nowhere else.
"""

from __future__ import annotations

from woodshed.errors import ConfigError

try:
    from openinference.semconv.resource import ResourceAttributes
    from openinference.semconv.trace import (
        MessageAttributes,
        MessageContentAttributes,
        OpenInferenceSpanKindValues,
        SpanAttributes,
        ToolAttributes,
        ToolCallAttributes,
    )
except ImportError as error:
    raise ConfigError("spans need OpenTelemetry and OpenInference: pip install 'woodshed[otel]'") from error

GENAI_OPERATION = "gen_ai.operation.name"
GENAI_PROVIDER = "gen_ai.provider.name"
GENAI_MODEL = "gen_ai.request.model"
GENAI_TEMPERATURE = "gen_ai.request.temperature"
GENAI_CONVERSATION = "gen_ai.conversation.id"
GENAI_AGENT = "gen_ai.agent.name"
GENAI_TOOL_NAME = "gen_ai.tool.name"
GENAI_TOOL_CALL_ID = "gen_ai.tool.call.id"
GENAI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GENAI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GENAI_FINISH_REASONS = "gen_ai.response.finish_reasons"
GENAI_RESPONSE_ID = "gen_ai.response.id"
GENAI_INPUT = "gen_ai.input.messages"
GENAI_OUTPUT = "gen_ai.output.messages"
GENAI_INSTRUCTIONS = "gen_ai.system_instructions"
GENAI_TOOLS = "gen_ai.tool.definitions"
GENAI_EVALUATION_EVENT = "gen_ai.evaluation.result"
GENAI_EVALUATION_NAME = "gen_ai.evaluation.name"
GENAI_EVALUATION_SCORE = "gen_ai.evaluation.score.value"
GENAI_EVALUATION_EXPLANATION = "gen_ai.evaluation.explanation"

OWN_CALL = "woodshed.call"
"""JSON: the recorded call with token ids, log-probabilities and weight versions, without its messages and tools."""
OWN_ABOUT = "woodshed.about"
"""JSON: what is known of the rollout as a whole."""
OWN_SCORE = "woodshed.score"
OWN_PARENT_CALL = "woodshed.parent_call_id"

__all__ = [
    "MessageAttributes",
    "MessageContentAttributes",
    "OpenInferenceSpanKindValues",
    "ResourceAttributes",
    "SpanAttributes",
    "ToolAttributes",
    "ToolCallAttributes",
]
