"""A verdict that was paid is kept, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from woodshed.errors import ConfigError
from woodshed.rewards.cache import MemoryCache, SqliteCache
from woodshed.rewards.verdict import AttemptScore

MARKS = (AttemptScore(score=0.1 + 0.2, explanation="„früh“ \n"), AttemptScore(score=0.0, explanation=""))


def test_a_file_gives_back_exactly_what_it_was_given(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "deep" / "verdicts.sqlite")
    cache.put("k", [AttemptScore(score=1.0, explanation="older")])
    cache.put("k", MARKS)

    assert tuple(cache.get("k") or ()) == MARKS
    assert cache.get("other") is None
    cache.close()


def test_memory_keeps_as_a_file_does() -> None:
    cache = MemoryCache()
    cache.put("k", list(MARKS))

    assert cache.get("k") == MARKS
    assert cache.get("other") is None


def test_a_killed_process_loses_nothing_it_saved(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from woodshed.rewards.cache import SqliteCache\n"
        "from woodshed.rewards.verdict import AttemptScore\n"
        "SqliteCache(sys.argv[1]).put('k', [AttemptScore(score=0.5, explanation='paid')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "verdicts.sqlite"
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=dict(os.environ), timeout=60)

    assert done.returncode == -signal.SIGKILL
    cache = SqliteCache(path)
    assert cache.get("k") == [AttemptScore(score=0.5, explanation="paid")]
    cache.close()


def test_two_may_share_a_file(tmp_path: Path) -> None:
    one, other = SqliteCache(tmp_path / "v.sqlite"), SqliteCache(tmp_path / "v.sqlite")
    one.put("k", MARKS)

    assert tuple(other.get("k") or ()) == MARKS
    one.close()
    other.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)

    with pytest.raises(ConfigError, match=r"notes\.txt' cannot be used as a verdict cache"):
        SqliteCache(path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be used as a verdict cache"):
        SqliteCache(tmp_path / "file" / "verdicts.sqlite")
