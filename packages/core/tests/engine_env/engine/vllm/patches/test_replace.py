"""A patch for another vLLM than this one is refused as it is installed, never left out in silence."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM", allow_module_level=True)

from woodshed.engine.vllm.patches.replace import replace_function
from woodshed.errors import EngineError


class Theirs:
    @staticmethod
    def gather(logprobs: float, number: int) -> float:
        return logprobs * number

    def render(self, messages: str, *, cut: bool = False) -> str:
        return messages


def test_a_function_is_replaced_and_stays_what_it_was() -> None:
    theirs = type("Copy", (), dict(vars(Theirs)))

    replace_function(theirs, "gather", lambda old: lambda logprobs, number: old(logprobs, number) + 1)
    replace_function(theirs, "render", lambda old: lambda self, messages, **rest: old(self, messages, **rest) + "!")

    assert theirs.gather(2.0, 3) == 7.0
    assert theirs().render("hi", cut=True) == "hi!"


@pytest.mark.parametrize(
    ("name", "ours", "said"),
    [
        ("gone", lambda old: old, r"has no .*Theirs\.gone"),
        ("gather", lambda old: lambda logprobs: old(logprobs, 1), r"calls .*Theirs\.gather with .*'number'"),
        ("render", lambda old: lambda self, text, **rest: old(self, text), r"calls .*Theirs\.render"),
    ],
)
def test_what_has_changed_is_named(name: str, ours: object, said: str) -> None:
    with pytest.raises(EngineError, match=rf"^vLLM \S+ {said}.*woodshed engine install"):
        replace_function(Theirs, name, ours)  # type: ignore[arg-type]


def test_a_module_function_that_is_gone_is_named() -> None:
    with pytest.raises(EngineError, match=r"has no .*\.gone"):
        replace_function(SimpleNamespace(__name__="vllm.some"), "gone", lambda old: old)


_MISSING = """
from vllm.v1.outputs import LogprobsLists
del LogprobsLists.slice_request
from woodshed.engine.vllm import fork_server
fork_server._import_vllm()
"""


def test_the_fork_server_does_not_start_without_what_a_patch_replaces() -> None:
    done = subprocess.run([sys.executable, "-c", _MISSING], capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "has no vllm.v1.outputs.LogprobsLists.slice_request" in done.stderr
