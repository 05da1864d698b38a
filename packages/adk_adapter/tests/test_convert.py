"""Requests cross from Google's types to OpenAI's without loss; what cannot is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.adk.models.llm_request import LlmRequest
from google.genai import types
from pydantic import BaseModel

from woodshed.errors import ConfigError
from woodshed_adk._convert import to_body, to_messages
from woodshed_adk._convert_schema import to_json_schema


def user(*parts: types.Part | str) -> types.Content:
    return types.Content(role="user", parts=[types.Part(text=p) if isinstance(p, str) else p for p in parts])


def model(*parts: types.Part | str) -> types.Content:
    return types.Content(role="model", parts=user(*parts).parts)


def call(name: str, id: str | None = None, **args: Any) -> types.Part:
    return types.Part(function_call=types.FunctionCall(id=id, name=name, args=args))


def answer(name: str, response: Any, id: str | None = None) -> types.Part:
    return types.Part(function_response=types.FunctionResponse(id=id, name=name, response=response))


def messages(*contents: types.Content, instruction: Any = None) -> list[dict[str, Any]]:
    return to_messages(contents, instruction, lambda content, before: None)


def body(*contents: types.Content, **config: Any) -> dict[str, Any]:
    request = LlmRequest(contents=list(contents), config=types.GenerateContentConfig(**config))
    return to_body(request, lambda content: None)


@pytest.mark.parametrize(
    "instruction",
    [
        "Be kind.",
        types.Part(text="Be kind."),
        types.Content(parts=[types.Part(text="Be "), types.Part(text="kind.")]),
        {"text": "Be kind."},
        {"parts": [{"text": "Be kind."}]},
        ["Be kind."],
    ],
)
def test_an_instruction_in_any_shape_is_the_system_message(instruction: Any) -> None:
    assert messages(user("hi"), instruction=instruction)[0] == {"role": "system", "content": "Be kind."}


def test_calls_without_ids_are_paired_with_their_answers_by_order_and_name() -> None:
    sent = messages(
        model(call("add", a=1), call("sub", a=2), call("add", a=3)),
        user(answer("add", {"result": 1}), answer("sub", {"result": 2}), answer("add", {"result": 3})),
        model(call("add", a=4)),
        user(answer("add", {"result": 4})),
    )

    asked = [(c["id"], c["function"]["arguments"]) for m in sent for c in m.get("tool_calls", ())]
    told = [(m["tool_call_id"], m["content"]) for m in sent if m["role"] == "tool"]
    assert [call_id for call_id, _ in asked] == [call_id for call_id, _ in told]
    assert len({call_id for call_id, _ in asked}) == 4
    assert [json.loads(content)["result"] for _, content in told] == [1, 2, 3, 4]


def test_given_ids_win_over_the_order() -> None:
    sent = messages(
        model(call("add", "x", a=1), call("add", "y", a=2)), user(answer("add", {}, "y"), answer("add", {}, "x"))
    )

    assert [message["tool_call_id"] for message in sent[1:]] == ["y", "x"]


def test_what_the_model_thought_said_and_asked_is_one_message() -> None:
    thought = types.Part(text="hm", thought=True)
    (sent,) = messages(model(thought, "Let me see.", call("add", "c1", a="é")))

    assert sent == {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": "é"}'}}],
    }


def test_results_and_words_of_one_turn_are_separate_messages() -> None:
    sent = messages(user(answer("add", {"result": 3}, "c1"), "and now?"))

    assert [(m["role"], m["content"]) for m in sent] == [("tool", '{"result": 3}'), ("user", "and now?")]


def test_code_and_text_files_are_read_as_text() -> None:
    code = types.Part(executable_code=types.ExecutableCode(code="1 + 2", language=types.Language.PYTHON))
    ran = types.Part(code_execution_result=types.CodeExecutionResult(output="3", outcome=types.Outcome.OUTCOME_OK))
    file = types.Part(inline_data=types.Blob(mime_type="text/plain", data=b"a note"))

    assert [m["content"] for m in messages(model(code), user(ran), user(file))] == [
        "```python\n1 + 2\n```",
        "```tool_output\n3\n```",
        "a note",
    ]


def test_empty_contents_are_no_messages() -> None:
    assert messages(types.Content(role="model", parts=[]), types.Content(role="user"), model("")) == []


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (types.Part(inline_data=types.Blob(mime_type="image/png", data=b"x")), "data of type 'image/png'"),
        (types.Part(inline_data=types.Blob(mime_type="audio/wav", data=b"x")), "data of type 'audio/wav'"),
        (types.Part(file_data=types.FileData(file_uri="gs://bucket/film.mp4")), "the file 'gs://bucket/film.mp4'"),
    ],
)
def test_what_is_not_text_is_refused_by_name(part: types.Part, named: str) -> None:
    with pytest.raises(ConfigError, match=f"holds {named}, and the policy reads text only"):
        messages(user("look", part))


def test_media_in_a_tools_answer_are_refused() -> None:
    blob = types.FunctionResponsePart(inline_data=types.FunctionResponseBlob(mime_type="image/png", data=b"x"))
    shown = types.FunctionResponse(name="draw", response={}, parts=[blob])

    with pytest.raises(ConfigError, match="media in the answer of tool 'draw'"):
        messages(user(types.Part(function_response=shown)))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"candidate_count": 2}, "candidate_count=2; the policy gives one answer"),
        ({"response_modalities": ["AUDIO"]}, r"response_modalities=\['AUDIO'\]"),
        ({"cached_content": "cachedContents/1"}, "cached content 'cachedContents/1'"),
        ({"tools": [types.Tool(google_search=types.GoogleSearch())]}, "the tool 'google_search'.*function that does"),
        ({"tools": [types.Tool(code_execution=types.ToolCodeExecution())]}, "the tool 'code_execution'"),
        ({"tools": [types.Tool(url_context=types.UrlContext())]}, "the tool 'url_context'"),
    ],
)
def test_what_a_policy_cannot_give_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        body(user("hi"), **config)


def test_settings_have_openais_names() -> None:
    sent = body(
        user("hi"), temperature=0.0, top_p=0.9, top_k=40, max_output_tokens=9, stop_sequences=["!"], seed=7,
        presence_penalty=0.1, frequency_penalty=0.2, response_logprobs=True, logprobs=3,
    )  # fmt: skip

    del sent["messages"]
    assert sent == {
        "temperature": 0.0, "top_p": 0.9, "max_tokens": 9, "stop": ["!"], "seed": 7, "presence_penalty": 0.1,
        "frequency_penalty": 0.2, "logprobs": True, "top_logprobs": 3, "extra_body": {"top_k": 40},
    }  # fmt: skip


def test_a_setting_only_google_has_is_not_sent_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = types.SafetySetting(
        category=types.HarmCategory.HARM_CATEGORY_HARASSMENT, threshold=types.HarmBlockThreshold.BLOCK_NONE
    )
    for _ in range(2):
        assert list(body(user("hi"), safety_settings=[settings])) == ["messages"]

    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("'safety_settings' is a setting of the author's provider; inside rollouts it is not sent")


def test_json_without_a_schema_is_asked_for_as_json() -> None:
    assert body(user("hi"), response_mime_type="application/json")["response_format"] == {"type": "json_object"}


class Inner(BaseModel):
    values: list[int]


def test_google_schemas_become_json_schemas() -> None:
    google = types.Schema(
        type=types.Type.OBJECT,
        required=["type"],
        properties={
            "type": types.Schema(type=types.Type.STRING, enum=["STRING", "OBJECT"]),
            "many": types.Schema(type=types.Type.ARRAY, min_items=1, items=types.Schema(type=types.Type.INTEGER)),
            "maybe": types.Schema(any_of=[types.Schema(type=types.Type.STRING), types.Schema(type=types.Type.NUMBER)]),
        },
    )

    assert to_json_schema(google) == {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": ["STRING", "OBJECT"]},
            "many": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "number"}]},
        },
    }
    assert to_json_schema(list[Inner])["items"] == {"$ref": "#/$defs/Inner"}
    assert to_json_schema(
        types.Schema.from_json_schema(json_schema=types.JSONSchema(**google.json_schema.model_dump()))
    )["properties"].keys() == {"type", "many", "maybe"}


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    declared = types.FunctionDeclaration(name="ping", description="Ping.")
    (tool,) = body(user("hi"), tools=[types.Tool(function_declarations=[declared])])["tools"]

    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}
