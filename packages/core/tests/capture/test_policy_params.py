"""Every setting has one fate, in one table: in effect, dropped with one line a run, or refused by name."""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.resources.chat.completions import Completions

from woodshed.capture import Rollout, bind, note_model_settings, policy_params
from woodshed.errors import ConfigError
from woodshed.types.chat_settings import CHAT_SETTINGS, MODEL_SETTINGS, REQUEST_SETTINGS

DOCS = Path(__file__).parents[4] / "docs" / "settings.md"
MARK = "<!-- the table: WOODSHED_UPDATE_GOLDEN=1 writes it anew -->\n"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def rollout(run_id: str | None) -> Rollout:
    return Rollout(base_url="http://127.0.0.1:9/v1", secret="s", run_id=run_id)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What is logged in a rollout of a run of this test's own."""
    caplog.set_level(logging.INFO, logger="woodshed.capture")
    said: list[str] = []
    with bind(rollout(f"run of {id(said)}")):
        yield said
    said += [record.getMessage() for record in caplog.records]


def test_every_name_has_one_row_and_every_row_says_why() -> None:
    counts = Counter((row.place, name) for row in CHAT_SETTINGS for name in row.names)

    assert [name for name, count in counts.items() if count > 1] == []
    assert [row.names for row in CHAT_SETTINGS if not row.why] == []
    targets = [row.to for row in REQUEST_SETTINGS.values() if row.fate == "mapped"]
    assert [to for to in targets if to is None or REQUEST_SETTINGS[to].fate != "kept"] == []


def test_every_argument_of_the_openai_sdk_has_a_row() -> None:
    arguments = set(inspect.signature(Completions.create).parameters) - {"self"}

    assert arguments - REQUEST_SETTINGS.keys() - MODEL_SETTINGS.keys() == set()


def test_what_is_kept_goes_where_the_sdk_takes_it() -> None:
    sent = policy_params(
        {**ASK, "temperature": 0.5, "top_k": 4, "max_output_tokens": 9, "seed": None, "extra_body": {"min_p": 0.1}}
    )

    assert sent == {**ASK, "temperature": 0.5, "max_tokens": 9, "extra_body": {"top_k": 4, "min_p": 0.1}}
    assert inspect.signature(Completions.create).bind(None, **sent)


@pytest.mark.parametrize("place", ["argument", "extra_body"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provider", {"order": ["a"]}), ("store", True), ("logit_bias", {"5": 1}), ("reasoning_effort", "low"),
        ("service_tier", "flex"), ("prompt_cache_key", "k"), ("safety_identifier", "s"), ("metadata", {"a": "b"}),
        ("user", "u"), ("verbosity", "low"), ("timeout", 3.0), ("extra_query", {"a": "b"}),
    ],
)  # fmt: skip
def test_a_setting_of_the_provider_is_left_out_with_one_line(
    caplog: pytest.LogCaptureFixture, name: str, value: Any, place: str
) -> None:
    asked = {**ASK, name: value} if place == "argument" else {**ASK, "extra_body": {name: value}}
    with bind(rollout(f"{place} {name}")):
        sent = [policy_params(asked) for _ in range(3)]

    assert sent == [ASK] * 3
    (line,) = [record.getMessage() for record in caplog.records]
    row = REQUEST_SETTINGS.get(name) or MODEL_SETTINGS[name]
    assert line == f"{name!r} is a setting of the author's provider; inside rollouts it is not sent to the policy: " + (
        row.why
    )


def test_each_run_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for run in ("first run", "first run", "second run"):
        with bind(rollout(run)):
            policy_params({**ASK, "store": True})

    assert len(caplog.records) == 2


@pytest.mark.parametrize("place", ["argument", "extra_body", "field"])
def test_what_is_in_no_row_is_said_and_not_passed_on(caplog: pytest.LogCaptureFixture, place: str) -> None:
    with bind(rollout(f"unknown {place}")):
        for _ in range(2):
            if place == "field":
                note_model_settings({"temperture": 0.5})
            else:
                inner = {"temperture": 0.5}
                assert policy_params({**ASK, **(inner if place == "argument" else {"extra_body": inner})}) == ASK

    assert [record.getMessage() for record in caplog.records] == [
        "'temperture' is a setting that is not known to woodshed; not passed on to the policy. See docs/settings.md"
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"functions": [{"name": "f"}]}, {"audio": {"voice": "x"}}, {"modalities": ["audio"]},
        {"web_search_options": {}}, {"extra_body": {"plugins": [{"id": "web"}]}},
        {"extra_body": {"guided_json": {}}},
    ],
)  # fmt: skip
def test_what_makes_another_agent_is_refused_by_name(asked: dict[str, Any]) -> None:
    name = next(iter(asked.get("extra_body", asked)))
    with pytest.raises(ConfigError, match=rf"sets {name}=.*which the policy cannot have"):
        policy_params({**ASK, **asked})
    with pytest.raises(ConfigError, match=rf"sets {name}="):
        note_model_settings(asked.get("extra_body", asked))


def test_a_value_that_asks_for_nothing_is_left_out_without_a_word(lines: list[str]) -> None:
    idle = {"store": False, "service_tier": "auto", "modalities": ["text"], "functions": [], "logit_bias": {}}

    assert policy_params({**ASK, **idle, "user": None, "extra_body": None}) == ASK
    assert lines == []


def test_the_authors_headers_are_sent_but_never_its_identity(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"x-mine": "1", "Authorization": "Bearer author", "X-Woodshed-Call-Id": "theirs"}
    with bind(rollout("headers")):
        sent = policy_params({**ASK, "extra_headers": headers})

    assert sent["extra_headers"] == {"x-mine": "1"}
    assert "Bearer author" not in caplog.text and "'Authorization'" in caplog.text


def table() -> str:
    """Return the table as Markdown."""
    rows = []
    for place, title in (("request", "Fields of a request"), ("model", "Fields of a framework's model class")):
        rows.append(f"\n## {title}\n\n| setting | in a rollout | why |\n|---|---|---|\n")
        for row in CHAT_SETTINGS:
            if row.place == place:
                names = ", ".join(f"`{name}`" for name in row.names)
                idle = f" (unless {' or '.join(f'`{value!r}`' for value in row.idle)})" if row.idle else ""
                rows.append(f"| {names} | **{row.fate}**{f' to {row.to}' if row.to else ''}{idle} | {row.why} |\n")
    return "".join(rows)


def test_the_page_shows_the_table() -> None:
    words, _, shown = DOCS.read_text().partition(MARK)
    if os.environ.get("WOODSHED_UPDATE_GOLDEN"):
        DOCS.write_text(words + MARK + table())
        shown = table()

    assert shown == table()
