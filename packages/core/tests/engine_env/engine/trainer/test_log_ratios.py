"""The importance ratio of every token that was trained is kept, by rollout and call, in the order of the answer."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch
from tiny_trainer import POLICY, SESSIONS, numbered

from woodshed.engine.trainer.policy_run import PolicyRun
from woodshed.engine.trainer.worker_protocol import Start, Step


def run(model_path: str, home: Path) -> PolicyRun:
    return PolicyRun(Start(model_path=model_path, home=str(home), policy=POLICY, parent_pid=0))


def test_ratios_are_those_of_a_plain_forward_pass(model_path: str, tmp_path: Path) -> None:
    of = run(model_path, tmp_path)
    expected = {}
    for name, session in SESSIONS.items():
        for call in session.calls:
            (answer,) = call.completions
            ids = torch.tensor([call.prompt_ids + answer.token_ids])
            logprobs = of.policy.model(input_ids=ids).logits[0].log_softmax(-1)
            first = len(call.prompt_ids) - 1
            expected[name, call.call_id] = [
                logprobs[first + k, token].item() - answer.logprobs[k] for k, token in enumerate(answer.token_ids)
            ]

    report = of.step(Step(request=numbered(0), sessions=SESSIONS))

    found = json.loads(gzip.decompress((tmp_path / "log_ratios" / f"{report.version:05d}.json.gz").read_bytes()))
    flat = {(rollout, call): values for rollout, calls in found.items() for call, values in calls.items()}
    assert flat.keys() == expected.keys()
    for key, values in flat.items():
        assert values == pytest.approx(expected[key], abs=2e-3)


def test_a_folder_that_refuses_the_file_costs_no_step(
    model_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of = run(model_path, tmp_path)
    (tmp_path / "log_ratios").write_text("in the way")

    with caplog.at_level(logging.WARNING):
        report = of.step(Step(request=numbered(0), sessions=SESSIONS))

    assert report.trained and report.version == 1
    assert "importance ratios of version 1 are not kept" in caplog.text
