"""What is held out never appears in training, and nothing else is missing from it."""

from __future__ import annotations

from woodshed_tiny_world import all_scenarios, held_out_scenarios, train_scenarios


def test_every_scenario_is_either_trained_or_held_out() -> None:
    train, held_out = train_scenarios(), held_out_scenarios()

    assert sorted(s.id for s in (*train, *held_out)) == sorted(s.id for s in all_scenarios())
    assert len({s.id for s in all_scenarios()}) == len(all_scenarios()) == 240
    assert (len(train), len(held_out)) == (160, 80)


def test_no_held_out_question_is_trained() -> None:
    train, held_out = train_scenarios(), held_out_scenarios()

    assert not {s.question for s in train} & {s.question for s in held_out}
    assert not {(s.wish, s.item, s.wording) for s in train} & {(s.wish, s.item, s.wording) for s in held_out}


def test_every_wording_and_every_instrument_of_a_held_out_question_is_practised() -> None:
    worded = {(s.wish, s.wording) for s in train_scenarios()}
    asked = {(s.wish, s.item, s.currency) for s in train_scenarios()}

    for scenario in held_out_scenarios():
        assert (scenario.wish, scenario.wording) in worded
        assert (scenario.wish, scenario.item, scenario.currency) in asked


def test_scenarios_survive_a_json_round_trip() -> None:
    for scenario in all_scenarios():
        assert type(scenario).model_validate_json(scenario.model_dump_json()) == scenario
