"""vLLM's engine core in a process of its own, with the patches installed there, too.

On a GPU vLLM *spawns* its engine core: an interpreter that starts from nothing and has none of what was replaced in the
server's process. `run_engine_core` stands in the place of vLLM's function of that name. It is handed over by its name,
so the new process imports this module, and with it the patches. A core that is forked has them already.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.v1.engine.core import EngineCoreProc

from woodshed.engine.vllm.patches.replace import replace_function
from woodshed.engine.vllm.processes import die_with_parent

_run_engine_core = EngineCoreProc.run_engine_core


def install() -> None:
    """Make vLLM start its engine core through `run_engine_core`."""
    replace_function(EngineCoreProc, "run_engine_core", lambda _: run_engine_core)


def run_engine_core(*args: Any, dp_rank: int = 0, local_dp_rank: int = 0, **kwargs: Any) -> None:
    """Install the patches in this process, then do what vLLM does in it."""
    # The server starts it from its main thread, whose end is that of the server. A forked core has this set already;
    # one that is spawned would live on, with all it holds of a GPU, if the server were killed.
    die_with_parent(os.getppid())
    from woodshed.engine.vllm import patches

    patches.install()
    _run_engine_core(*args, dp_rank=dp_rank, local_dp_rank=local_dp_rank, **kwargs)
