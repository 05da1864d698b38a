"""Before a run depends on a judge, it is tried in every mode on attempts whose order is known."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import pytest
from known_judges import GROUPS, WORTH, Answer, copies, endless_alone, honest, is_list, label, shown
from loopback_judge import LoopbackJudge, Reply, Request, says, verdict

from woodshed.errors import CheckError, ConfigError, CostCeilingError
from woodshed.rewards.base import Reward
from woodshed.rewards.blend import Blend
from woodshed.rewards.cache import SqliteCache
from woodshed.rewards.mode_trial import CONCRETE_MODES, Mode, ModeTable, ModeTrial, chosen, table_lines
from woodshed.rewards.prepare import prepared
from woodshed.rewards.prompt import PromptSettings, transcripts
from woodshed.rewards.ruler import Ruler


def last_is_best(request: Request) -> str:
    ids = list(shown(request))
    return verdict({i: n / 4 for n, i in enumerate(ids)}) if is_list(request) else "B" if len(ids) == 2 else "5"


def coin(request: Request) -> str:
    draw = random.Random(json.dumps(request["messages"]))
    return (
        verdict({i: draw.random() for i in shown(request)})
        if is_list(request)
        else label({i: draw.random() for i in shown(request)})
    )


def by_mode(table: ModeTable) -> dict[str, ModeTrial]:
    return {t.mode: t for t in table.trials}


def test_the_built_in_groups_are_of_many_kinds_and_have_a_strict_order() -> None:
    assert 8 <= len(GROUPS) <= 12
    for group in GROUPS:
        assert len(group.trajectories) == len(set(group.worth.values())) == 4
        texts = transcripts(group.trajectories, PromptSettings(rubric="-"))
        assert len(set(texts.attempts)) == 4
        assert texts.shared.startswith("user: ")
    assert len(WORTH) == 4 * len(GROUPS)
    traced = next(g for g in GROUPS if g.name == "tool calls")
    text = transcripts(traced.trajectories, PromptSettings(rubric="-")).attempts[1]
    assert "tool stock: error: depot 'nort' not found" in text


async def test_a_judge_that_reads_lists_keeps_the_cheapest_mode(server: LoopbackJudge) -> None:
    server.script = [says(honest)]
    ruler = Ruler(server.judge(prompt_usd_per_million=1.0, completion_usd_per_million=10.0), mode="auto")

    ready = await ruler.prepared()

    assert ready.table is not None
    assert (ready.ruler.mode, ready.table.mode) == ("group", "group")
    for trial in ready.table.trials:
        assert (trial.tau, trial.masked, trial.flat, trial.groups) == (1.0, 0, 0, len(GROUPS))
    assert [by_mode(ready.table)[m].requests for m in ("group", "single", "pairs")] == [1, 4, 12]
    assert [by_mode(ready.table)[m].position_bias for m in ("group", "single", "pairs")] == [0, None, 0]
    assert by_mode(ready.table)["single"].cost_usd == pytest.approx(4 * 200e-6)
    assert all(t.seconds > 0 and t.tokens == 110 * t.requests for t in ready.table.trials)


@pytest.mark.parametrize(
    ("answer", "mode", "flat", "masked"),
    [(copies, "single", 10, 0), (endless_alone, "pairs", 0, 10)],
    ids=["copies one explanation", "never ends"],
)
async def test_a_judge_that_cannot_read_a_list_gets_the_mode_that_it_can(
    server: LoopbackJudge, answer: Answer, mode: str, flat: int, masked: int
) -> None:
    server.script = [says(answer)]

    ready = await Ruler(server.judge(), mode="auto").prepared()

    assert ready.table is not None
    assert ready.ruler.mode == mode
    group = by_mode(ready.table)["group"]
    assert (group.flat, group.masked, group.tau) == (flat, masked, 0)
    assert by_mode(ready.table)[mode].tau == 1.0
    assert repr(ready.ruler).startswith(f"Ruler(Judge('loopback', base_url='{server.base_url}'), mode='{mode}'")


async def test_position_bias_is_shown(server: LoopbackJudge) -> None:
    server.script = [says(last_is_best)]

    trials = await Ruler(server.judge(), mode="auto").trials(GROUPS)

    assert {t.mode: t.position_bias for t in trials} == {"group": 1.0, "single": None, "pairs": 1.0}
    assert next(t for t in trials if t.mode == "pairs").flat == len(GROUPS)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (says(coin), r"'loopback' is no better than a coin on 10 groups.*τ is .*in mode 'pairs'; expected at least"),
        (says(last_is_best), "no better than a coin"),
        (says("Je ne peux pas juger cela."), "no usable verdict in any mode; the first error: .*invalid reply twice"),
        (Reply(status=500, body={"error": {"message": "down"}}, headers=(("retry-after", "0"),)), "no usable verdict"),
    ],
    ids=["coin", "position only", "another language", "down"],
)
async def test_a_judge_no_better_than_a_coin_fails_the_check(server: LoopbackJudge, reply: Reply, message: str) -> None:
    server.script = [reply]

    with pytest.raises(CheckError, match=message):
        await Ruler(server.judge(), mode="auto").prepared()


async def test_auto_judges_nothing_before_it_has_a_mode(server: LoopbackJudge) -> None:
    with pytest.raises(ConfigError, match=r"has no mode yet: .*ruler.prepared\(\)"):
        await Ruler(server.judge(), mode="auto").judge_group([])

    assert (await Ruler(server.judge(), mode="pairs").prepared()).table is None
    assert server.requests == []


async def test_the_trial_is_paid_once_and_decides_the_same_again(server: LoopbackJudge, tmp_path: Path) -> None:
    server.script = [says(copies)]
    first = await Ruler(server.judge(), mode="auto", cache=SqliteCache(tmp_path / "v")).prepared()
    asked = len(server.requests)

    again = await Ruler(server.judge(), mode="auto", cache=SqliteCache(tmp_path / "v")).prepared()

    assert len(server.requests) == asked
    assert again.ruler.mode == first.ruler.mode


async def test_the_trial_keeps_to_the_cost_limit(server: LoopbackJudge) -> None:
    server.script = [says(honest)]
    judge = server.judge(prompt_usd_per_million=1.0, completion_usd_per_million=10.0)

    with pytest.raises(CostCeilingError):
        await Ruler(judge, mode="auto", max_cost_usd=0.003).prepared()

    assert len(server.requests) <= 15


async def test_the_users_rubric_does_not_judge_the_built_in_groups_but_the_run(server: LoopbackJudge) -> None:
    server.script = [says(honest)]

    ready = await Ruler(server.judge(), mode="auto", rubric="- Quote the page.").prepared()

    assert all("Quote the page" not in r["messages"][0]["content"] for r in server.requests)
    assert ready.ruler.rubric == "- Quote the page."


async def test_every_ruler_of_a_blend_is_prepared_and_a_known_choice_is_kept(server: LoopbackJudge) -> None:
    server.script = [says(copies)]
    reward = Blend((1.0, Ruler(server.judge(), mode="auto")), (1.0, Ruler("other")))

    ready, tables = await prepared(reward)
    asked = len(server.requests)
    resumed, same = await prepared(reward, {t.judge: t for t in tables})

    def modes(of: Reward) -> list[str]:
        assert isinstance(of, Blend)
        return [part.mode for _, part in of.parts if isinstance(part, Ruler)]

    assert modes(ready) == modes(resumed) == ["single", "group"]
    assert [t.mode for t in same] == ["single"]
    assert len(server.requests) == asked


def trial(mode: Mode, tau: float) -> ModeTrial:
    return ModeTrial(
        mode=mode, groups=10, masked=0, flat=0, tau=tau, tau_interval=(tau, tau), position_bias=None, requests=1,
        tokens=9, cost_usd=None, seconds=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("taus", "mode"),
    [
        ((0.9, 0.9, 0.9), "group"),
        ((0.86, 0.9, 0.9), "group"),
        ((0.7, 0.9, 0.93), "single"),
        ((0.7, 0.7, 0.93), "pairs"),
    ],
)
def test_of_modes_as_good_the_one_with_the_fewest_requests_is_taken(taus: tuple[float, ...], mode: str) -> None:
    trials = [trial(m, tau) for m, tau in zip(CONCRETE_MODES, taus, strict=True)]

    table = chosen("j", trials)

    assert table.mode == mode
    assert sum(line.startswith("*") for line in table_lines(table.trials, table.mode)) == 1


def test_the_threshold_is_beyond_chance() -> None:
    """The best of three modes by a coin, on as many groups as there are, seldom reaches it."""
    draw = random.Random(0)

    def tau() -> float:
        order = draw.sample(range(4), 4)
        return sum(1 if a < b else -1 for a, b in combinations(order, 2)) / 6

    best = [max(sum(tau() for _ in GROUPS) / len(GROUPS) for _ in range(3)) for _ in range(3000)]
    assert sum(b >= 0.35 for b in best) / len(best) < 0.05
