"""What the engine remembers survives a restart, and is refused where it cannot be read."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from woodshed.engine.gateway.conversations import History
from woodshed.engine.gateway.counters import SWAPS, Counters, restarts_of
from woodshed.engine.gateway.gateway import Gateway
from woodshed.engine.gateway.sessions import Session, Sessions
from woodshed.engine.gateway.store import Store, digest_of
from woodshed.errors import EngineError, PolicyLost
from woodshed.types import Completion, Message, OpenSession, TokenCall

NEW = History(messages=[])


def call(call_id: str, started_s: float = 1.0, token: int = 7) -> TokenCall:
    message = Message(role="assistant", content="hi")
    completion = Completion(index=0, message=message, token_ids=(token,), logprobs=(-0.5,), weight_versions=(2,))
    return TokenCall(
        call_id=call_id,
        started_s=started_s,
        latency_s=0.1,
        messages=(message,),
        prompt_ids=(1, 2),
        completions=(completion,),
    )


async def test_sessions_and_calls_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path / "engine.sqlite")
    sessions = Sessions(store)
    secret = await sessions.open(OpenSession(rollout_id="r", policy="policy", sampling={"temperature": 0.5}))
    session = sessions.find(secret)
    assert session is not None
    sessions.record(session, call("late", 2.0), NEW)
    sessions.record(session, call("early", 1.0), NEW)
    # No close: the process was killed.
    found = Sessions(Store(tmp_path / "engine.sqlite"))
    again = found.find(secret)

    assert again is not None
    assert (again.rollout_id, again.sampling, again.is_sealed) == ("r", {"temperature": 0.5}, False)
    assert (await found.seal("r")).calls == (call("early", 1.0), call("late", 2.0))


async def test_a_repeated_call_replaces_the_one_before(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    session = sessions.find(await sessions.open(OpenSession(rollout_id="r", policy="policy")))
    assert session is not None
    sessions.record(session, call("a", token=1), NEW)
    sessions.record(session, call("a", token=2), NEW)

    assert (await sessions.seal("r")).calls == (call("a", token=2),)


async def test_a_sealed_rollout_is_not_opened_again(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    await sessions.open(OpenSession(rollout_id="r", policy="policy"))
    await sessions.seal("r")
    with pytest.raises(EngineError, match="'r' is sealed and cannot be opened again"):
        await sessions.open(OpenSession(rollout_id="r", policy="policy"))


async def test_unknown_and_open_sessions_are_named(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    with pytest.raises(EngineError, match="no session for rollout 'x'"):
        await sessions.seal("x")
    await sessions.open(OpenSession(rollout_id="r", policy="policy"))
    with pytest.raises(EngineError, match="'r' is still open; seal it first"):
        sessions.sealed("r")


def test_another_versions_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.sqlite"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(EngineError, match="has format 99"):
        Store(path)


def test_an_sdk_retry_is_the_oldest_call_with_its_body_that_was_left_unanswered(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    session = Session(rollout_id="r", policy="policy", sampling={})
    first, second, third = (sessions.receive(session, None, b"same", 0)[0] for _ in range(3))
    other, _ = sessions.receive(session, None, b"other", 0)
    sessions.mark_unanswered(session, other, b"other")
    sessions.mark_unanswered(session, second, b"same")
    sessions.mark_unanswered(session, first, b"same")
    retries = [sessions.receive(session, None, b"same", count) for count in (1, 0, 2, 1)]

    assert len({first, second, third, other}) == 4
    assert retries[0] == (second, 1)
    assert retries[1][1] == 0 and retries[1][0] not in (first, second, third)
    assert retries[2] == (first, 2)
    # The third is in flight or answered: somebody else's.
    assert retries[3][0] not in (first, second, third, retries[1][0])


async def test_what_a_run_left_open_is_refused_once_another_run_has_its_policy(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    lost = await sessions.open(OpenSession(rollout_id="lost", policy="policy", run_id="a"))
    await sessions.open(OpenSession(rollout_id="sealed", policy="policy", run_id="a"))
    await sessions.seal("sealed")
    await sessions.open(OpenSession(rollout_id="of no run", policy="policy"))
    sessions.lose("policy", "b", lambda run: f"held by run 'b' now, not by {run!r}")
    head, body = await answered(Gateway({}, sessions, None), lost)

    assert (head["status"], dict(head["headers"])[b"x-should-retry"]) == (409, b"false")
    assert b"held by run 'b' now" in body
    with pytest.raises(PolicyLost, match="held by run 'b' now"):
        await sessions.seal("lost")
    assert (await sessions.seal("sealed")).rollout_id == "sealed"
    assert (await sessions.seal("of no run")).rollout_id == "of no run"


async def test_a_refusal_has_a_code_that_the_client_half_knows(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    secret = await sessions.open(OpenSession(rollout_id="r", policy="policy"))
    head, body = await answered(Gateway({}, sessions, None), secret)

    assert (head["status"], b'"code":"request_refused"' in body) == (400, True)


async def test_the_file_is_its_owners_and_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "engine.sqlite"
    path.touch(mode=0o644)
    sessions = Sessions(Store(path))
    secret = await sessions.open(OpenSession(rollout_id="r", policy="policy"))
    files = sorted(tmp_path.iterdir())

    assert [file.name for file in files] == ["engine.sqlite", "engine.sqlite-shm", "engine.sqlite-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert not any(secret.encode() in file.read_bytes() for file in files)
    # What the file holds is no key either.
    assert sessions.find(digest_of(secret)) is None


async def test_a_file_of_an_earlier_woodshed_keeps_its_sessions_and_loses_its_secrets(tmp_path: Path) -> None:
    path, secret = tmp_path / "engine.sqlite", "woodshed-session-old"
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute(
            "CREATE TABLE sessions (rollout_id TEXT PRIMARY KEY, secret TEXT NOT NULL UNIQUE, policy TEXT NOT NULL, "
            "sampling TEXT NOT NULL, opened_s REAL NOT NULL, sealed_s REAL, late_calls INTEGER NOT NULL DEFAULT 0)"
        )
        old.execute("INSERT INTO sessions VALUES ('r', ?, 'policy', '{}', 1.0, NULL, 0)", (secret,))
        old.execute("PRAGMA user_version=1")
    for _ in range(2):  # once upgraded, it stays as it is
        found = Sessions(Store(path)).find(secret)
        assert found is not None and (found.rollout_id, found.run_id) == ("r", None)
    with closing(sqlite3.connect(path)) as upgraded:
        assert upgraded.execute("SELECT secret FROM sessions").fetchone() == (digest_of(secret),)


async def test_a_sessions_run_is_known_after_a_restart(tmp_path: Path) -> None:
    sessions = Sessions(Store(tmp_path / "engine.sqlite"))
    secret = await sessions.open(OpenSession(rollout_id="r", policy="policy", run_id="a"))
    again = Sessions(Store(tmp_path / "engine.sqlite"))
    again.lose("policy", "b", lambda run: f"held by run 'b' now, not by {run!r}")
    found = again.find(secret)

    assert found is not None
    assert (found.run_id, found.lost) == ("a", "held by run 'b' now, not by 'a'")


def test_a_runs_counts_go_on_after_a_restart_and_are_no_other_runs(tmp_path: Path) -> None:
    def opened(run_id: str) -> Counters:
        counters = Counters(Store(tmp_path / "engine.sqlite"))
        counters.hold("policy", run_id)
        return counters

    first = opened("a")
    first.serve("a", 0, is_trained=False)
    for version in (1, 2, 2):
        first.serve("a", version)
    first.add(restarts_of("policy"))
    # The engine was killed after it had saved version 3 and before it served it.
    second = opened("a")
    second.serve("a", 3)
    second.add(restarts_of("policy"))
    other = opened("b")
    other.serve("b", 1, is_trained=False)  # an adapter that the run starts from

    assert (second.total(SWAPS), second.total(restarts_of("policy")), second.total(restarts_of("judge"))) == (3, 2, 0)
    assert (other.total(SWAPS), other.total(restarts_of("policy"))) == (0, 0)


async def answered(gateway: Gateway, secret: str) -> tuple[MutableMapping[str, Any], bytes]:
    """Return the head and the body of the answer to a chat completion call."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(event: MutableMapping[str, Any]) -> None:
        sent.append(event)

    await gateway.chat({"headers": [(b"authorization", f"Bearer {secret}".encode())]}, receive, send)
    return sent[0], sent[1]["body"]
