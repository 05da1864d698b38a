"""The API over a recorded run: every page's answer, only for who knows the secret, and without changing a byte."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from recorded_run import SCENARIOS, SCRIPT, Recorded, recorded, unjudged
from view_client import SECRET, Client, untouched

from woodshed.training.run.store import RunStore
from woodshed.types import StepReport
from woodshed.view.reader import RunReader

FIRST, SECOND = SCENARIOS


async def test_overview_has_the_figures_of_every_step_and_evaluation(client: Client) -> None:
    shown = await client.get("runs/0/overview")

    assert (shown["name"], shown["finished"], shown["process"]) == ("recorded", True, None)
    assert shown["steps"] == [1, 2, 3]
    assert [p["success"] for p in shown["evaluations"]] == [0.0, 0.5]
    assert shown["evaluations"][1]["interval"] == [0.1, 0.9]
    assert [p["is_best"] for p in shown["evaluations"]] == [False, True]
    assert shown["series"]["loss"] == [0.0, -0.01, -0.02]
    assert len(shown["series"]["spread"]) == 3 and all(s > 0.2 for s in shown["series"]["spread"])
    assert shown["series"]["drift"] is None  # no step measured it
    assert (shown["totals"]["rollouts"], shown["totals"]["masked"]) == (30, 6)
    assert shown["warnings"] == [f"step 2: something <b>odd</b> {SCRIPT}"]


async def test_steps_and_groups_come_page_by_page(client: Client) -> None:
    steps = await client.get("runs/0/steps", offset=1, limit=1)
    groups = await client.get("runs/0/groups", step=1, limit=1, offset=1, sort="scenario")

    assert (steps["total"], [s["step"] for s in steps["items"]]) == (3, [1])
    assert steps["items"][0]["groups"] == 2
    assert (groups["total"], groups["last"]) == (2, 2)
    assert [g["group_id"] for g in groups["items"]] == [f"1/{FIRST}"]


async def test_a_group_is_shown_in_the_judges_order_with_its_reasons_and_orders(client: Client) -> None:
    shown = await client.get("runs/0/group", id=f"1/{FIRST}")

    leaders = [column["attempts"][0] for column in shown["columns"]]
    assert [a["number"] for a in leaders] == [0, 1, 2, 4]
    assert [a["number"] for a in shown["columns"][2]["attempts"]] == [2, 3]  # said and done alike
    values = [a["score"]["value"] for a in leaders[:3]]
    assert values == sorted(values, reverse=True) and leaders[3]["score"] is None
    assert leaders[0]["score"]["explanation"].startswith("worth 0.9")
    assert leaders[3]["training"] == {"state": "masked", "why": "the attempt failed", "advantage": None}
    readings = shown["judgement"]["readings"]
    orders = [[one["number"] for one in reading["shown"]] for reading in readings]
    assert len(orders) == 2 and orders[0] == orders[1][::-1]
    assert shown["judgement"]["consistency"] == 1.0
    worth = {0: 0.9, 1: 0.6, 2: 0.1, 3: 0.1}
    for first, *others in (reading["shown"] for reading in readings):
        assert first["score"] == pytest.approx(worth[first["number"]] + 0.05)  # this judge likes the first one shown
        assert [one["score"] for one in others] == [worth[one["number"]] for one in others]


async def test_what_attempts_share_is_folded_and_where_they_differ_is_marked(client: Client) -> None:
    shown = await client.get("runs/0/group", id=f"1/{FIRST}")

    assert [m["role"] for m in shown["shared"]] == ["system", "user"]
    best, second = (column["conversations"][0]["messages"] for column in shown["columns"][:2])
    assert [m["role"] for m in best] == ["assistant", "tool", "assistant"]
    marked = [best[2]["content"][a:b] for a, b in best[2]["marks"]]
    assert "good" in "".join(marked) and "🪔🪔" in "".join(marked) and "four" not in "".join(marked)
    assert second[2]["marks"] == []  # all that it says, the best says too


async def test_an_attempt_has_its_calls_as_a_tree_its_tools_and_what_was_made_of_it(client: Client) -> None:
    shown = await client.get("runs/0/attempt", slot=f"1/{FIRST}/0")

    assert [(c["agent"], c["parent"]) for c in shown["timeline"]] == [
        ("planner", None), ("planner", f"1/{FIRST}-0/0"), ("writer", f"1/{FIRST}-0/0"),
    ]  # fmt: skip
    assert [c["agent"] for c in shown["conversations"]] == ["planner", "writer"]
    result = shown["conversations"][0]["messages"][3]
    assert (result["tool"], result["latency_s"], result["error"]) == ("look", 0.25, None)
    assert [t["name"] for t in shown["unread_tools"]] == ["unread"] and SCRIPT in shown["unread_tools"][0]["error"]
    assert shown["training"]["state"] == "trained" and shown["training"]["advantage"] > 0
    assert (shown["previous"], shown["next"]) == (None, f"1/{FIRST}/1")


async def test_tokens_have_text_probability_ratio_and_version(client: Client) -> None:
    shown = await client.get("runs/0/tokens", slot=f"1/{FIRST}/0", call=f"1/{FIRST}-0/1")

    (answer,) = shown["completions"]
    assert [t["id"] for t in answer["tokens"]] == [1534, 1171, 2]
    assert all(t["text"] for t in answer["tokens"])
    assert [t["logprob"] for t in answer["tokens"]] == [-0.1, -2.5, -0.001]
    assert [t["ratio"] for t in answer["tokens"]] == pytest.approx([1.0, math.exp(0.25), math.exp(-0.5)])
    assert [t["version"] for t in answer["tokens"]] == [1, 1, 1]
    assert (shown["trained"], shown["notes"]) == (True, [])


async def test_tokens_say_why_they_were_not_trained(client: Client) -> None:
    failed = await client.get("runs/0/tokens", slot=f"1/{FIRST}/4", call=f"1/{FIRST}-failed/1")
    held_out = await client.get("runs/0/tokens", slot="before/held/out <b>/0", call="before-0/1")

    assert (failed["trained"], failed["untrained"]) == (False, "the attempt failed")
    assert held_out["untrained"] == "held-out attempts are never trained"


async def test_a_held_out_scenario_is_shown_before_and_after(client: Client) -> None:
    listed = await client.get("runs/0/scenarios")
    shown = await client.get("runs/0/scenario", id="held/out <b>")

    assert listed["points"] == ["before training", "after step 3"]
    assert listed["items"] == [{"scenario": "held/out <b>", "success": [0.0, 0.5]}]
    assert [c["label"] for c in shown["columns"]] == listed["points"]
    assert [[a["measured"] for a in c["attempts"]] for c in shown["columns"]] == [[0.0, 0.0], [1.0, 0.0]]
    assert [m["role"] for m in shown["shared"]] == ["system", "user"]


async def test_nothing_runs_in_a_finished_run(client: Client) -> None:
    assert (await client.get("runs/0/in_progress"))["phase"] == "finished"


async def test_no_answer_changes_the_folder(folder: Path, client: Client) -> None:
    with untouched(folder):
        await client.get("runs")
        for path in ("overview", "steps", "groups", "scenarios", "in_progress"):
            await client.get(f"runs/0/{path}")
        await client.get("runs/0/group", id=f"1/{SECOND}")


@pytest.mark.parametrize("path", ["/", "/api/runs", f"/{SECRET}x/api/runs", f"/x{SECRET}/", "//", "/%2e%2e/", "/é/"])
async def test_without_the_secret_everything_is_403(client: Client, path: str) -> None:
    response = await client.raw(path)

    assert response.status_code == 403 and "secret" in response.text and "recorded" not in response.text


@pytest.mark.parametrize("host", ["http://evil.example", "http://127.0.0.1.evil.example:80", "http://10.0.0.1"])
async def test_another_name_than_loopbacks_is_403(folder: Path, host: str) -> None:
    assert (await Client(folder, base=host).raw(f"/{SECRET}/api/runs")).status_code == 403


@pytest.mark.parametrize("host", ["http://localhost:8000", "http://[::1]:9", "http://127.0.0.1"])
async def test_names_of_loopback_are_served(folder: Path, host: str) -> None:
    assert (await Client(folder, base=host).raw(f"/{SECRET}/api/runs")).status_code == 200


@pytest.mark.parametrize("path", ["", "api/runs", "app.js", "nothing"])
async def test_every_answer_forbids_foreign_code_and_keeps_the_address_secret(client: Client, path: str) -> None:
    headers = (await client.raw(f"/{SECRET}/{path}")).headers

    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_only_reading_is_possible(client: Client, method: str) -> None:
    assert (await client.raw(f"/{SECRET}/api/runs", method=method)).status_code == 405


@pytest.mark.parametrize("path", ["../server.py", "..%2fserver.py", "%2e%2e/%2e%2e/cli/app.py", "....//server.py"])
async def test_no_file_beside_the_page_is_served(client: Client, path: str) -> None:
    response = await client.raw(f"/{SECRET}/{path}")

    assert response.status_code in (403, 404) and "import" not in response.text


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("runs/7/overview", 404, "there is no run 7; 1 are shown"),
        ("runs/0/group?id=9/nothing", 404, "the run has no group '9/nothing'"),
        ("runs/0/group", 400, "id is missing"),
        ("runs/0/attempt?slot=1/x/0", 404, "the run has no attempt '1/x/0'"),
        ("runs/0/attempt?slot=nonsense", 404, "the run has no attempt 'nonsense'"),
        ("runs/0/tokens?slot=1/x/0&call=y", 404, "no attempt"),
        ("runs/0/groups?step=-1", 400, "step is '-1'; expected a whole number of 0 or more"),
        ("runs/0/steps?offset=1e9", 400, "offset is '1e9'"),
        ("runs/0/steps?limit=99999999999999999999", 400, "limit is"),
        ("runs/0/scenario?id=';DROP TABLE facts", 200, "columns"),
        ("runs/0/group?id=%00", 404, "the run has no group"),
        ("runs/0/events/x", 404, "Not Found"),
    ],
)
async def test_what_is_not_there_is_named(client: Client, path: str, status: int, said: str) -> None:
    response = await client.raw(f"/{SECRET}/api/{path}")

    assert response.status_code == status, response.text
    assert said in response.text


async def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "nan")
    run.begin()
    await run.step(0, metrics={"loss": math.nan, "entropy": math.inf})
    run.close()

    shown = await Client(tmp_path / "nan").get("runs/0/overview")

    assert (shown["series"]["loss"], shown["series"]["entropy"]) == (None, None)


async def test_a_run_without_a_judge_shows_its_attempts(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "plain", ruler=None)
    run.begin()
    await run.group(0, FIRST)
    client = Client(tmp_path / "plain")

    shown = await client.get("runs/0/group", id=f"0/{FIRST}")

    assert shown["judgement"] is None
    assert sum(len(c["attempts"]) for c in shown["columns"]) == 5
    assert (await client.get("runs/0/overview"))["has_judge"] is False
    run.close()


async def test_a_group_without_a_verdict_says_so(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "unjudged")
    run.begin()
    await run.group(0, FIRST)
    run.store.save_judgement(f"0/{FIRST}", unjudged())
    run.close()
    client = Client(tmp_path / "unjudged")

    shown = await client.get("runs/0/group", id=f"0/{FIRST}")
    (row,) = (await client.get("runs/0/groups", step=0))["items"]

    assert shown["judgement"]["error"] == row["error"] == "JudgeError: no JSON"
    assert {a["training"]["why"] for c in shown["columns"] for a in c["attempts"]} == {
        "its group has no verdict", "the attempt failed",
    }  # fmt: skip


async def test_a_run_with_no_step_yet_is_shown_empty(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "new")
    run.begin()
    run.close()
    client = Client(tmp_path / "new")

    assert (await client.get("runs/0/overview"))["steps"] == []
    assert (await client.get("runs/0/steps"))["total"] == 0
    assert (await client.get("runs/0/scenarios"))["points"] == []


async def test_a_supervised_run_is_shown_by_its_loss(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "sft")
    store.claim({"policy": {"model": "m"}})
    for step in range(2):
        row = {"step": step, "epoch": 0, "version": step + 1, "nll": 1.0 - step / 2, "trained_tokens": 9.0}
        store.save_step(step, StepReport(step_id=f"epoch-000-step-{step:05d}", version=step + 1, trained=True), row)
    store.close()
    client = Client(tmp_path / "sft")

    shown = await client.get("runs/0/overview")

    assert (shown["steps"], shown["series"]["nll"], shown["series"]["reward"]) == ([1, 2], [1.0, 0.5], None)
    assert (await client.get("runs/0/scenarios"))["points"] == []


async def test_rollouts_that_were_set_aside_are_not_shown_as_the_steps_own(tmp_path: Path) -> None:
    run = Recorded(tmp_path / "aside")
    run.begin()
    for step in (0, 1):
        await run.group(step, FIRST)
    reader = RunReader(tmp_path / "aside")
    from woodshed.view.groups import groups, steps

    assert steps(reader)["total"] == 2
    run.store.set_aside(1)
    assert steps(reader)["total"] == 1 and groups(reader, step=1)["total"] == 0
    await run.group(1, SECOND)
    assert [g["scenario"] for g in groups(reader, step=1)["items"]] == [SECOND]
    run.close()


async def test_several_runs_are_listed_and_a_damaged_one_is_named(folder: Path, tmp_path: Path) -> None:
    other = await recorded(tmp_path / "other", steps=1)
    client = Client(folder, other)
    (other / "run.sqlite").write_bytes(b"not a database at all, but long enough to be read as one" * 40)

    first, second = await client.get("runs")

    assert (first["name"], first["steps_done"]) == ("recorded", 3)
    assert second["name"] == "other" and "cannot be read as a run's database" in second["error"]
