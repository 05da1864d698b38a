"""What is refused of a Ray cluster before an engine is started: an address that cannot work, and no Ray."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from woodshed.engine import Engine, ServedModel
from woodshed.engine.client.config import EngineConfig, check_config
from woodshed.engine.client.ray_cluster import knock
from woodshed.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "says"),
    [("", "names no cluster"), (" ", "names no cluster"), ("ray://head:10001", "must run on a machine of the cluster")],
)
def test_an_address_that_cannot_work_is_refused(address: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Engine.ray(address)


async def test_an_environment_without_ray_is_named_with_the_command_that_adds_it(tmp_path: Path) -> None:
    bare = tmp_path / "bin" / "python"
    bare.parent.mkdir()
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # no site-packages, whatever is installed here
    bare.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = ServedModel(name="policy", path=str(tmp_path / "model"))
    with pytest.raises(ConfigError, match=r"needs Ray .*bin/python' has none; 'woodshed engine install --ray' adds it"):
        async with Engine.ray("local", python=bare).running([model], tmp_path):
            pass


def test_turns_on_one_gpu_are_refused_on_a_cluster(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path="owner/model", gpu_sharing="sleep")
    with pytest.raises(ConfigError, match=r"gpu_sharing='sleep' \(models \['policy'\]\).*leave gpu_sharing out"):
        check_config(EngineConfig(home=tmp_path, models=(model,), ray="auto"))


def test_gpus_of_other_machines_are_not_counted_here(tmp_path: Path) -> None:
    model = ServedModel(name="policy", path="owner/model", tensor_parallel=8, replicas=4)

    assert check_config(EngineConfig(home=tmp_path, models=(model,), ray="auto")).models == (model,)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", f"127.0.0.1:{10**30}"])
def test_an_address_where_nothing_listens_is_known_at_once(address: str) -> None:
    with pytest.raises(ConnectionError):
        knock(address)


def test_an_address_where_something_listens_is_taken_and_a_name_is_rays_own_business() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock(f"127.0.0.1:{server.getsockname()[1]}")
    knock("auto")
