"""woodshed trains an agent you already have: rollouts → an LLM judge's scores → GRPO on a LoRA → served by vLLM.

Names are imported on first use, so that `import woodshed` stays light (see docs/decisions/0003-lazy-public-face.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from woodshed.lazy import on_first_use

if TYPE_CHECKING:
    from woodshed import export, mcp, traces
    from woodshed.capture import Rollout, RolloutFunction, bind, current_rollout, rollout, untracked
    from woodshed.engine.client.config import ServedModel
    from woodshed.engine.client.local import Engine
    from woodshed.errors import (
        CheckError,
        ConfigError,
        CostCeilingError,
        DriftError,
        EngineError,
        EngineMissing,
        EngineUnreachable,
        ExportError,
        HookError,
        JudgeError,
        JudgeRefused,
        LeakError,
        McpServerError,
        McpServerUnreachable,
        NothingToLearn,
        PolicyLost,
        RequestRefused,
        RolloutError,
        RolloutTimeout,
        StorageError,
        TraceServerError,
        TrainError,
        UnsupportedVersionError,
        WoodshedError,
    )
    from woodshed.rewards.base import Reward
    from woodshed.rewards.blend import Blend
    from woodshed.rewards.cache import SqliteCache
    from woodshed.rewards.function import FunctionReward
    from woodshed.rewards.judge import Judge
    from woodshed.rewards.ruler import Ruler
    from woodshed.training.config import AdvantageSettings, Evaluation, Policy, TrainConfig
    from woodshed.training.finished import Run
    from woodshed.training.loop import Training
    from woodshed.training.sft.config import SftConfig
    from woodshed.training.sft.run import SftRun, sft, sft_async
    from woodshed.training.train import train, train_async
    from woodshed.types import (
        Group,
        Judgement,
        LoraSettings,
        LossSettings,
        Message,
        ModelCall,
        OptimizerSettings,
        Reading,
        Score,
        ToolCall,
        Trajectory,
    )

__version__ = "0.1.0"

_HOME = {
    # Mark the rollout function, and access the rollout that is running.
    "Rollout": "capture",
    "RolloutFunction": "capture",
    "bind": "capture",
    "current_rollout": "capture",
    "rollout": "capture",
    "untracked": "capture",
    # Train.
    "AdvantageSettings": "training.config",
    "Evaluation": "training.config",
    "Policy": "training.config",
    "Run": "training.finished",
    "SftConfig": "training.sft.config",
    "SftRun": "training.sft.run",
    "TrainConfig": "training.config",
    "Training": "training.loop",
    "sft": "training.sft.run",
    "sft_async": "training.sft.run",
    "train": "training.train",
    "train_async": "training.train",
    # Where the policy is served and trained.
    "Engine": "engine.client.local",
    "ServedModel": "engine.client.config",
    # Rewards.
    "Blend": "rewards.blend",
    "FunctionReward": "rewards.function",
    "Judge": "rewards.judge",
    "Reward": "rewards.base",
    "Ruler": "rewards.ruler",
    "SqliteCache": "rewards.cache",
    # Recorded values and settings.
    "Group": "types",
    "Judgement": "types",
    "LoraSettings": "types",
    "LossSettings": "types",
    "Message": "types",
    "ModelCall": "types",
    "OptimizerSettings": "types",
    "Reading": "types",
    "Score": "types",
    "ToolCall": "types",
    "Trajectory": "types",
    # Errors.
    "CheckError": "errors",
    "ConfigError": "errors",
    "CostCeilingError": "errors",
    "DriftError": "errors",
    "EngineError": "errors",
    "EngineMissing": "errors",
    "EngineUnreachable": "errors",
    "ExportError": "errors",
    "WoodshedError": "errors",
    "HookError": "errors",
    "JudgeError": "errors",
    "JudgeRefused": "errors",
    "LeakError": "errors",
    "NothingToLearn": "errors",
    "PolicyLost": "errors",
    "RequestRefused": "errors",
    "McpServerError": "errors",
    "McpServerUnreachable": "errors",
    "RolloutError": "errors",
    "RolloutTimeout": "errors",
    "StorageError": "errors",
    "TraceServerError": "errors",
    "TrainError": "errors",
    "UnsupportedVersionError": "errors",
}

_ROOMS = ("export", "mcp", "traces")
"""Subpackages that are part of the public API, such as `woodshed.mcp.agent(...)`."""

__all__ = [
    "AdvantageSettings",
    "Blend",
    "CheckError",
    "ConfigError",
    "CostCeilingError",
    "DriftError",
    "Engine",
    "EngineError",
    "EngineMissing",
    "EngineUnreachable",
    "Evaluation",
    "ExportError",
    "FunctionReward",
    "Group",
    "HookError",
    "Judge",
    "JudgeError",
    "JudgeRefused",
    "Judgement",
    "LeakError",
    "LoraSettings",
    "LossSettings",
    "McpServerError",
    "McpServerUnreachable",
    "Message",
    "ModelCall",
    "NothingToLearn",
    "OptimizerSettings",
    "Policy",
    "PolicyLost",
    "Reading",
    "RequestRefused",
    "Reward",
    "Rollout",
    "RolloutError",
    "RolloutFunction",
    "RolloutTimeout",
    "Ruler",
    "Run",
    "Score",
    "ServedModel",
    "SftConfig",
    "SftRun",
    "SqliteCache",
    "StorageError",
    "ToolCall",
    "TraceServerError",
    "TrainConfig",
    "TrainError",
    "Training",
    "Trajectory",
    "UnsupportedVersionError",
    "WoodshedError",
    "__version__",
    "bind",
    "current_rollout",
    "export",
    "mcp",
    "rollout",
    "sft",
    "sft_async",
    "traces",
    "train",
    "train_async",
    "untracked",
]


if not TYPE_CHECKING:  # which would take any name for one of this package
    _find = on_first_use(__name__, _HOME)

    def __getattr__(name: str) -> Any:
        """Import a public name from its module on first use."""
        return importlib.import_module(f"woodshed.{name}") if name in _ROOMS else _find(name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
