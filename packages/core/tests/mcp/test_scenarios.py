"""Scenarios: from a grammar or a model, tried out, split, and kept in a file that may be edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from woodshed.errors import ConfigError
from woodshed.mcp import Catalog, Generator, Limits, PlannedCall, Scenario, Server, Sessions, Tool, scenarios_async
from woodshed.mcp.catalog import McpPrompt, Resource
from woodshed.mcp.dry_run import DryRun
from woodshed.mcp.grammar import plan, tool_of_prompt
from woodshed.mcp.scenario import load, of_split, save, scenario, split
from woodshed.testing import ScriptedEngine, fail, say
from woodshed_tiny_world import all_scenarios

SHOP = ["get_price", "get_stock", "get_delivery"]


def tool(name: str, description: str = "", *, required: bool = True, **slots: dict[str, Any]) -> Tool:
    schema = {"type": "object", "properties": slots, "required": list(slots) if required else []}
    return Tool(name=name, description=description, parameters=schema)


def catalog(*tools: Tool, prompts: tuple[McpPrompt, ...] = (), resources: tuple[Resource, ...] = ()) -> Catalog:
    return Catalog(place="here", name="s", listed=len(tools), tools=tools, prompts=prompts, resources=resources)


async def nothing(prompt: str, arguments: dict[str, str]) -> str:
    return f"{prompt}?{arguments}"


async def made(found: Catalog, count: int = 100) -> tuple[list[str], list[str]]:
    writers, rejected = plan(found, nothing, seed=0)
    return sorted([(await write()).task for write in writers[:count]]), [r.reason for r in rejected]


async def test_the_shops_grammar_makes_every_question_and_rejects_what_is_not_sold(
    shop_url: str, tmp_path: Path
) -> None:
    sessions = Sessions(server=Server.of(shop_url))

    found = await scenarios_async(sessions, count=1000, tools=SHOP, folder=tmp_path)

    assert found.generated == 264
    assert len(found.scenarios) == 240
    assert {r.reason for r in found.rejected} == {
        f"{name} says: no {item!r} here" for name in SHOP for item in ("Serpent", "Sackbut")
    }
    assert (len(found.train), len(found.held_out)) == (180, 60)
    world = {s.question: (s.wish, s.arguments) for s in all_scenarios()}
    assert {s.task: (s.calls[0].tool, s.calls[0].arguments) for s in found.scenarios} == world
    asked = next(s for s in found.scenarios if s.task == "What does the Tuba cost in USD?")
    assert (len(asked.calls), asked.difficulty, asked.source) == (1, "medium", "prompt get_price_1")
    assert sessions.tally.calls == 88  # each distinct call is tried once: 22 items in 2 currencies, stock, delivery
    assert sessions.tally.opened == sessions.tally.closed
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 24


async def test_a_file_that_is_there_is_used_again_as_it_was_edited(shop_url: str, tmp_path: Path) -> None:
    (tmp_path / "scenarios.jsonl").write_text(
        '{"task": "Is there a Tuba?", "calls": [{"tool": "list_tubas"}]}\n\n'
        '{"task": "Two Tubas?", "split": "held_out", "difficulty": "hard"}\n'
    )
    sessions = Sessions(server=Server.of(shop_url))

    lines: list[str] = []
    found = await scenarios_async(sessions, count=1000, folder=tmp_path, on_message=lines.append)

    assert lines[-1] == "1 of them need tools that the agent does not have this time: list_tubas"
    assert found.reused
    assert [(s.task, s.split, s.source) for s in found.scenarios] == [
        ("Is there a Tuba?", "train", "by hand"),
        ("Two Tubas?", "held_out", "by hand"),
    ]
    assert sessions.tally.calls == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "line 2 cannot be read"),
        ('{"question": "?"}', 'line 2 cannot be read: expected an object with a "task"'),
        ('{"task": "b", "split": "test"}', "line 2: split: Input should be 'train' or 'held_out'"),
        ('{"task": "b", "colour": 1}', "line 2: colour: Extra inputs"),
        ('{"task": "A!"}', "line 2: the id '.*' appears twice"),
        ('{"task": "b"}', "2 scenarios for training and 0 held out"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "s.jsonl").write_text('{"task": "a"}\n' + line + "\n")

    with pytest.raises(ConfigError, match=said):
        load(tmp_path / "s.jsonl")


def test_scenarios_survive_their_file(tmp_path: Path) -> None:
    kept = [scenario(f"task {n}", calls=(PlannedCall(tool="t", arguments={"n": n}),)) for n in range(4)]
    parted = split(kept, held_out=0.5, seed=0)

    save(tmp_path / "s.jsonl", parted)

    assert load(tmp_path / "s.jsonl") == parted


def test_every_kind_is_held_out_in_its_share_and_the_seed_decides() -> None:
    kept = [scenario(f"{kind} {n}", source=kind) for kind in "abc" for n in range(40)]

    parted = split(kept, held_out=0.25, seed=0)

    for kind in "abc":
        assert sum(s.split == "held_out" for s in parted if s.source == kind) == 10
    assert split(kept, held_out=0.25, seed=0) == parted != split(kept, held_out=0.25, seed=1)
    assert len(of_split(split(kept[:2], held_out=0.25, seed=0), "held_out")) == 1
    with pytest.raises(ConfigError, match="held-out share is 1"):
        split(kept, held_out=1, seed=0)
    with pytest.raises(ConfigError, match="of 1 scenarios 1 are held out"):
        split(kept[:1], held_out=0.5, seed=0)


def test_a_rule_may_say_what_is_held_out() -> None:
    parted = split([scenario("a"), scenario("b")], held_out=lambda one: one.task == "b", seed=0)

    assert [s.split for s in parted] == ["train", "held_out"]
    with pytest.raises(ConfigError, match="of 2 scenarios 0 are held out"):
        split(parted, held_out=lambda one: False, seed=0)


async def test_slots_are_filled_from_the_schema_and_from_resources() -> None:
    found = catalog(
        tool("a", "One thing. More.", kind={"enum": ["x", "y"]}),
        tool("b", "Two", flag={"type": "boolean"}),
        tool("c", "Three", size={"type": "integer", "minimum": 0, "maximum": 8}),
        tool("d", "Four", town={"type": "string"}),
        tool("e", "Five", free={"type": "string"}, required=False),
        tool("f", "Six", wide={"anyOf": [{"type": "null"}, {"examples": ["e"]}]}),
        tool("g", "Seven", named={"type": "string", "default": "d"}),
        resources=(Resource(name="towns", uri="r://towns", text="Ulm\nBern\n"),),
    )

    tasks, rejected = await made(found)

    assert tasks == sorted(
        ["One thing: kind x.", "One thing: kind y.", "Two: flag true.", "Two: flag false.", "Five."]
        + [f"Three: size {n}." for n in (0, 2, 4, 6, 8)]
        + ["Four: town Ulm.", "Four: town Bern.", "Six: wide e.", "Seven: named d."]
    )
    assert rejected == []


async def test_a_slot_that_nobody_can_fill_rejects_its_template() -> None:
    found = catalog(
        tool("read", path={"type": "string"}),
        prompts=(
            McpPrompt(name="read_it", slots=("path",)),
            McpPrompt(name="hello", slots=("mood",), optional=("mood",)),
        ),
    )

    tasks, rejected = await made(found)

    assert tasks == ["hello?{}"]
    assert ["no value known for 'path'" in reason for reason in rejected] == [True, True]


async def test_of_very_many_combinations_different_ones_are_drawn() -> None:
    slots = {f"s{n}": {"enum": [f"v{m}" for m in range(100)]} for n in range(4)}

    writers, _ = plan(catalog(tool("a", "A", **slots)), nothing, seed=0)
    tasks = {(await write()).task for write in writers}

    assert len(tasks) == len(writers) == 2000


def test_a_prompt_asks_for_the_tool_it_is_named_after() -> None:
    tools = (tool("get"), tool("get_price"), tool("log"))

    assert tool_of_prompt(McpPrompt(name="get_price_2"), tools) == tools[1]
    assert tool_of_prompt(McpPrompt(name="p", description="Uses log to look."), tools) == tools[2]
    assert tool_of_prompt(McpPrompt(name="p", description="A catalogue"), tools) is None


async def test_what_is_drawn_comes_from_every_template_in_turn() -> None:
    found = catalog(tool("a", "A", n={"enum": list(range(50))}), tool("b", "B", n={"enum": list(range(50))}))

    tasks, _ = await made(found, count=10)

    assert sorted(t[0] for t in tasks) == ["A"] * 5 + ["B"] * 5


async def test_a_dry_run_rejects_what_cannot_be_called_and_calls_nothing_destructive(hostile_url: str) -> None:
    sessions = Sessions(server=Server.of(hostile_url), limits=Limits(call_s=2))
    harmful = tool("hang").model_copy(update={"destructive": "yes"})
    run = DryRun(sessions=sessions, catalog=catalog(tool("echo", x={"type": "integer"}), tool("fail"), harmful))
    calls = [("echo", {"x": 1}), ("echo", {"x": "1"}), ("fail", {}), ("gone", {}), ("hang", {})]
    tasks = [scenario(f"t{n}", calls=(PlannedCall(tool=t, arguments=a),)) for n, (t, a) in enumerate(calls)]

    kept, rejected = await run.filter([*tasks, scenario("T0!"), scenario("t6")])

    assert [s.task for s in kept] == ["t0", "t4", "t6"]
    assert [r.reason for r in rejected] == [
        """echo refuses {"x": "1"}: '1' is not of type 'integer'""",
        "fail says: the disk is on fire",
        "it needs the tool 'gone', which the agent does not have",
        "duplicate task",
    ]
    assert sessions.tally.calls == 2


def written(*rows: dict[str, Any]) -> str:
    return json.dumps({"scenarios": list(rows)})


def row(task: str, difficulty: str = "easy", **arguments: Any) -> dict[str, Any]:
    return {
        "task": task,
        "difficulty": difficulty,
        "calls": [{"tool": "get_stock", "arguments": json.dumps(arguments)}],
    }


async def test_a_model_writes_scenarios_and_is_told_which_could_not_be_done(shop_url: str) -> None:
    answers = [
        "I think:\n" + written(row("Any Tuba left?", item="Tuba"), row("Any Kazoo left?", item="Kazoo")),
        "no JSON at all",
        written(row("any tuba LEFT", item="Tuba"), row("Any Harp left?", "hard", item="Harp"), {"task": "half"}),
    ]
    with ScriptedEngine(lambda request: say(answers.pop(0))) as chat:
        model = Generator("writer", base_url=chat.base_url, api_key="k", mix={"easy": 1, "hard": 1})
        sessions = Sessions(server=Server.of(shop_url))
        found = await scenarios_async(sessions, count=2, generator=model)
        asked = [str(r.body["messages"][-1]["content"]) for r in chat.requests]

    assert [(s.task, s.difficulty, s.source) for s in found.scenarios] == [
        ("Any Tuba left?", "easy", "writer"),
        ("Any Harp left?", "hard", "writer"),
    ]
    assert [r.reason for r in found.rejected] == [
        "get_stock says: no 'Kazoo' here",
        "no JSON object with scenarios; it begins with 'no JSON at all'",
        "cannot be read: 'calls'",
        "duplicate task",
    ]
    assert "Write 1 easy, 1 hard tasks" in asked[0] and "get_stock" in asked[0] and "Violin" in asked[0]
    assert "no 'Kazoo' here" in asked[1] and '"Any Tuba left?"' in asked[1]
    assert "Write 1 hard tasks" in asked[2]
    assert sessions.tally.calls == 3  # Tuba, Kazoo, Harp; the second task about the Tuba needs no second try


async def test_a_model_that_writes_nothing_readable_is_named(shop_url: str) -> None:
    with ScriptedEngine(lambda request: say("sorry")) as chat:
        model = Generator("writer", base_url=chat.base_url, api_key="k")
        with pytest.raises(ConfigError, match="generator 'writer' wrote nothing that can be read in 3 requests"):
            await scenarios_async(Sessions(server=Server.of(shop_url)), count=2, generator=model)


async def test_a_model_that_cannot_be_asked_is_named_without_its_key(shop_url: str) -> None:
    with ScriptedEngine(lambda request: fail(401)) as chat:
        model = Generator("writer", base_url=chat.base_url, api_key="sk-secret")
        with pytest.raises(ConfigError, match=r"generator 'writer' at .* answered 401.*Generator\(api_key") as refused:
            await scenarios_async(Sessions(server=Server.of(shop_url)), count=2, generator=model)

    assert "sk-secret" not in f"{refused.value} {model!r}"


async def test_what_is_written_stays_where_the_model_stops_answering(shop_url: str) -> None:
    answers = [say(written(row("Any Tuba left?", item="Tuba"), row("Any Harp left?", item="Harp"))), fail(401)]
    lines: list[str] = []
    with ScriptedEngine(lambda request: answers.pop(0)) as chat:
        model = Generator("writer", base_url=chat.base_url, api_key="k")
        sessions = Sessions(server=Server.of(shop_url))
        found = await scenarios_async(sessions, count=4, generator=model, on_message=lines.append)

    assert [s.task for s in found.scenarios] == ["Any Tuba left?", "Any Harp left?"]
    assert any("generator 'writer'" in line and "continuing with the 2 scenarios" in line for line in lines)


def test_a_mix_is_shared_out_whole() -> None:
    assert Generator("m").wanted(10) == {"easy": 4, "medium": 4, "hard": 2}
    assert sum(Generator("m", mix={"easy": 1, "medium": 1, "hard": 1}).wanted(100).values()) == 100
    with pytest.raises(ConfigError, match="names \\['huge'\\]"):
        Generator("m", mix={"huge": 1})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="does not run yet"):
        Generator("engine/policy")


def test_the_same_task_is_the_same_scenario_in_every_run() -> None:
    assert scenario("Is the Tuba in stock?").id == scenario("is the tuba in  stock").id
    assert isinstance(scenario("a"), Scenario)
