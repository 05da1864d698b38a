"""Every session is the rollout's own and ends whatever happens; a server's misbehaviour is an answer or an error."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from mcp_servers import hostile, shop

from woodshed.errors import ConfigError, McpServerError, McpServerUnreachable
from woodshed.mcp import Limits, Server, Sessions

QUICK = Limits(open_s=10, call_s=10)


def sessions(where: str | Sequence[str], limits: Limits = QUICK, token: str | None = None) -> Sessions:
    return Sessions(server=Server.of(where, token=token), limits=limits)


def counted(opened: Sessions) -> tuple[int, int]:
    return opened.tally.opened, opened.tally.closed


def children() -> set[int]:
    """Processes this one has started and not yet seen end."""
    found: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def said_by_server(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url.replace("/mcp", "/sessions")) as reply:
        found: dict[str, int] = json.load(reply)
    return found


async def test_a_write_in_one_session_is_not_seen_in_another(shop_url: str) -> None:
    opened = sessions(shop_url)

    async with opened.open() as one, opened.open() as other:
        placed = await one.call("place_order", {"item": "Tuba"})
        stocks = [(await s.call("get_stock", {"item": "Tuba"})).text for s in (one, other)]

    assert not placed.is_error
    assert stocks == ["65 left", "66 left"]


async def test_sessions_over_http_are_closed_on_the_server_too(shop_url: str) -> None:
    opened, before = sessions(shop_url), said_by_server(shop_url)

    async def one() -> str:
        async with opened.open() as session:
            return (await session.call("get_stock", {"item": "Tuba"})).text

    answers = await asyncio.gather(*(one() for _ in range(24)))

    after = said_by_server(shop_url)
    assert answers == ["66 left"] * 24
    assert counted(opened) == (24, 24)
    assert (after["opened"] - before["opened"], after["closed"] - before["closed"]) == (24, 24)


async def test_a_process_is_gone_when_its_session_is_over(tmp_path: Path) -> None:
    opened, before = sessions(shop(tmp_path)), children()

    async with opened.open() as session:
        during = children() - before
        answer = await session.call("get_delivery", {"item": "Tuba"})

    assert answer.text.endswith(" days")
    assert len(during) == 1
    assert children() <= before
    assert counted(opened) == (1, 1)


async def test_a_session_ends_when_its_block_raises(shop_url: str) -> None:
    opened = sessions(shop_url)

    with pytest.raises(ZeroDivisionError):
        async with opened.open():
            raise ZeroDivisionError

    assert counted(opened) == (1, 1)


async def test_a_session_ends_when_its_task_is_cancelled_in_a_tool_that_never_returns() -> None:
    opened, before = sessions(hostile("--hang")), children()

    async def rollout() -> None:
        async with opened.open() as session:
            started.set()
            await session.call("hang", {})

    started = asyncio.Event()
    task = asyncio.create_task(rollout())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await opened.drain()

    assert counted(opened) == (1, 1)
    assert children() <= before


async def test_a_tool_that_never_returns_is_an_error_the_agent_sees(hostile_url: str) -> None:
    opened = sessions(hostile_url, Limits(call_s=2))

    async with opened.open() as session:
        silence = await session.call("hang", {})
        after = await session.call("echo", {"a": 1})

    assert silence.is_error and silence.timed_out
    assert silence.text == "the tool 'hang' gave no answer within 2 s; it was not waited for any longer"
    assert after.text == "echo heard {'a': 1}"
    assert opened.tally.timeouts == 1


async def test_a_flood_is_cut_and_the_agent_is_told(hostile_url: str) -> None:
    opened = sessions(hostile_url, Limits(result_chars=50))

    async with opened.open() as session:
        answer = await session.call("flood", {})

    assert answer.text == "x" * 50 + "\n[cut: the tool returned 10,000,000 characters, the first 50 are shown]"
    assert not answer.is_error
    assert opened.tally.cut_answers == 1


async def test_a_tool_that_raises_is_an_error_the_agent_sees(hostile_url: str) -> None:
    async with sessions(hostile_url).open() as session:
        answer = await session.call("fail", {})

    assert answer.is_error
    assert answer.text == "the disk is on fire"


async def test_a_list_of_tools_that_changes_is_noted_and_the_session_goes_on(hostile_url: str) -> None:
    opened = sessions(hostile_url)

    async with opened.open() as session:
        await session.call("change", {})
        gone = await session.call("echo", {})
        reborn = await session.call("reborn", {})

    assert gone.is_error and gone.text == "there is no tool 'echo' any more"
    assert reborn.text == "reborn heard {}"
    assert opened.tally.changed_lists == 1


async def test_a_server_that_dies_breaks_the_session_and_is_no_answer() -> None:
    opened = sessions(hostile("--die"))

    with pytest.raises(McpServerUnreachable, match="broke off"):
        async with opened.open() as session:
            await session.call("die", {})

    assert session.fault is not None
    assert counted(opened) == (1, 1)
    assert opened.tally.broken_off == 1


async def test_nothing_at_an_address_is_said_with_the_address() -> None:
    opened = sessions("http://127.0.0.1:9/mcp")

    with pytest.raises(McpServerUnreachable, match=r"nothing answers at 'http://127\.0\.0\.1:9/mcp'.*is the server"):
        async with opened.open():
            pass

    assert opened.tally.opened == opened.tally.closed


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-program"], "cannot be started.*No such file"),
        (["false"], "broke off.*nothing to its standard error"),
        (["python3", "-c", "raise SystemExit('no config file')"], "its last words:\nno config file"),
    ],
)
async def test_a_command_that_does_not_run_is_said_with_its_last_words(command: list[str], said: str) -> None:
    with pytest.raises(McpServerUnreachable, match=f"(?s){said}"):
        async with sessions(command).open():
            pass


async def test_a_server_that_never_says_hello_is_not_waited_for() -> None:
    opened, before = sessions(hostile("--silent"), Limits(open_s=0.5, close_s=60)), children()
    clock = time.perf_counter()

    with pytest.raises(McpServerUnreachable, match=r"did not say hello within 0\.5 s"):
        async with opened.open():
            pass

    assert counted(opened) == (1, 1)
    assert children() <= before
    assert time.perf_counter() - clock < 30


async def test_few_processes_start_at_a_time_and_each_has_its_whole_time_to_say_hello(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("woodshed.mcp.session.STARTING", 3)
    opened, before = sessions(["sh", "-c", "cat > /dev/null"], Limits(open_s=2)), children()
    most = 0

    async def one() -> None:
        with pytest.raises(McpServerUnreachable, match=r"did not say hello within 2 s"):
            async with opened.open():
                pass

    waiting = asyncio.gather(*(one() for _ in range(6)))
    while not waiting.done():
        most = max(most, len(children() - before))
        await asyncio.sleep(0.02)
    await waiting

    assert counted(opened) == (6, 6)
    assert 1 < most <= 3


async def test_a_server_that_wants_a_key_says_how_to_give_it_one(hostile_url: str) -> None:
    url = hostile_url.replace("/mcp", "/key/mcp")
    with pytest.raises(McpServerError, match=r"wants authorization \(HTTP 401; no token was sent\).*--token"):
        async with sessions(url).open():
            pass
    with pytest.raises(McpServerError, match="a token or header was sent and refused") as refused:
        async with sessions(url, token="wrong-secret").open():
            pass
    async with sessions(url, token="sesame").open() as session:
        answer = await session.call("echo", {})

    assert "wrong-secret" not in str(refused.value)
    assert answer.text == "echo heard {}"


@pytest.mark.parametrize(
    ("status", "said"),
    [(200, "not answer as an MCP server.*path right"), (404, "path right"), (503, "failed with HTTP 503")],
)
async def test_an_address_that_is_no_mcp_server_is_said_so(hostile_url: str, status: int, said: str) -> None:
    with pytest.raises(McpServerError, match=f"(?s){said}"):
        async with sessions(hostile_url.replace("/mcp", f"/{status}/mcp")).open():
            pass


def test_a_server_is_read_from_an_address_a_line_or_words() -> None:
    assert Server.of("https://host/mcp?key=1").place == "https://host/mcp"
    assert Server.of("python 'my server.py' --db x").command == ("python", "my server.py", "--db", "x")
    assert Server.of(["python", "my server.py"]).name == "my-server"
    assert Server.of("https://docs.example.org/mcp").name == "docs.example.org"


def test_secrets_are_never_shown() -> None:
    over_net = Server.of("https://host/mcp", token="secret-1", headers={"X-Key": "secret-2"})
    command = Server.of("python server.py", env={"KEY": "secret-3"})

    assert "secret" not in f"{over_net!r} {command!r} {over_net.place} {command.place}"
    assert over_net.headers["Authorization"] == "Bearer secret-1"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Server(), "either an address or a command"),
        (lambda: Server.of("https://me:pw@host/mcp"), "user name or password"),
        (lambda: Server.of("https://["), r"address is 'https://\["),
        (lambda: Server.of("python x.py", token="t"), "token= is for a server over HTTP"),
        (lambda: Server.of("python x.py", headers={"A": "b"}), "are for a server over HTTP"),
        (lambda: Server.of("https://host", env={"A": "b"}), "is for a command"),
        (lambda: Server.of("https://host", headers={"A": "b\nC: d"}), "line break"),
        (lambda: Limits(call_s=0), "Limits.call_s is 0; expected more than 0"),
    ],
)
def test_a_server_that_contradicts_itself_is_refused(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()  # type: ignore[operator]
