"""What `woodshed engine status` shows of replicas."""

from __future__ import annotations

import pytest
from rich.console import Console

from woodshed.cli.engine_status import restart, status_table
from woodshed.errors import ConfigError
from woodshed.types import EngineHealth, ModelHealth, ModelSettings, ReplicaHealth


def test_each_server_has_a_row_with_its_state_and_its_cache() -> None:
    settings = ModelSettings(model="m", trainable=True, max_lora_rank=16, lora_slots=3, replicas=2)
    replicas = (
        ReplicaHealth(
            name="policy#1", state="ready", in_flight=3, sessions=5, calls=70, starts=1, cached_calls=0.98,
            cached_tokens=0.912, rss_mb=800.4,
        ),
        ReplicaHealth(name="policy#2", state="left out", in_flight=0, starts=2),
    )  # fmt: skip
    model = ModelHealth(name="policy", model="m", vllm="0", ready=True, settings=settings, replicas=replicas)
    console = Console(width=120)
    with console.capture() as shown:
        console.print(status_table(EngineHealth(woodshed="0", models=(model,))))
    rows = [line.split("│")[1:-1] for line in shown.get().splitlines() if "policy#" in line]

    assert [[cell.strip() for cell in row] for row in rows] == [
        ["policy#1", "ready", "3", "5", "70", "98%", "91%", "1", "800"],
        ["policy#2", "left out", "0", "0", "0", "", "", "2", "0"],
    ]


def test_a_server_that_cannot_be_is_refused_before_the_engine_is_asked() -> None:
    with pytest.raises(ConfigError, match=r"no server 'policy#x'.*engine status"):
        restart("policy#x")
