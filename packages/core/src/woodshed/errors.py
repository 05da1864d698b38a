"""Every error that woodshed raises on purpose, drawn as a tree.

WoodshedError
├── ConfigError (ValueError)            a setting, scenario or file that cannot be used
├── StorageError (OSError)              a run's file cannot be written, as on a full disk; the run can be resumed
├── UnsupportedVersionError (ImportError)  a framework outside the range an adapter is tested with
├── HookError (RuntimeError)            a framework function an adapter hooks is missing
├── LeakError (RuntimeError)            a model call outside any rollout while rollouts are active
├── RolloutError (RuntimeError)         one rollout failed; stored on its trajectory, never cancels its siblings
│   └── RolloutTimeout (TimeoutError)   … because it took longer than its time limit
├── WorkerError (RuntimeError)          rollout workers cannot be started, or one ended with the rollout it ran
├── McpServerError (RuntimeError)       an MCP server cannot be used
│   └── McpServerUnreachable (ConnectionError)  … because nothing answers there, or the connection broke
├── TraceServerError (ConnectionError)  a server that traces are sent to does not take them
├── JudgeError (RuntimeError)           a judge gave no usable verdict; masks the group, never becomes reward 0
│   └── JudgeRefused                    … and never will: no valid key, no credit, no such model; ends the run
├── CostCeilingError (RuntimeError)     the next judge request would exceed the run's cost limit; ends the run
├── NothingToLearn (RuntimeError)       several steps in a row trained nothing; ends the run
├── ExportError (RuntimeError)          a trained LoRA cannot be exported, or not to the hub
├── CheckError (RuntimeError)           a check before a run's first step failed; the message says what to do
└── EngineError (RuntimeError)          the engine cannot do what was requested
    ├── EngineMissing                   the engine environment is not installed
    ├── EngineUnreachable (ConnectionError)  nothing answers at the engine's address
    ├── RequestRefused (ValueError)     the engine cannot use what was sent to it
    ├── PolicyLost                      another run holds the policy that this one opened; ends the run
    └── TrainError                      an optimizer step could not be taken
        └── DriftError                  … because the engine did not sample from the policy that is trained

A run that is ended can be resumed by the same command.
"""

from __future__ import annotations

TROUBLESHOOTING = "docs/troubleshooting.md"
"""The page with a section for each class of this file."""


class WoodshedError(Exception):
    """Root of every deliberate error of woodshed. A note with its section of the docs follows its traceback."""

    def __init__(self, *args: object) -> None:
        """Note where the documentation speaks of it."""
        super().__init__(*args)
        known = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        self.add_note(f"see {TROUBLESHOOTING}#{known.__name__.lower()}")


class ConfigError(WoodshedError, ValueError):
    """A setting, scenario list or file that cannot be used; raised at construction, before any work."""


class StorageError(WoodshedError, OSError):
    """A run's file cannot be written, such as on a full disk; what was stored is kept. Raised by `training`."""


class UnsupportedVersionError(WoodshedError, ImportError):
    """A framework is older than the adapter's tested range, or newer under `WOODSHED_STRICT_VERSIONS=1`."""


class HookError(WoodshedError, RuntimeError):
    """A function that an adapter hooks does not exist; raised by `HookSet.apply` before anything is changed."""


class LeakError(WoodshedError, RuntimeError):
    """A model call had no rollout while rollouts were active; raised by `capture.require_rollout`."""


class RolloutError(WoodshedError, RuntimeError):
    """One rollout failed; kept on its trajectory with its type."""


class RolloutTimeout(RolloutError, TimeoutError):
    """One rollout took longer than its time limit; its session is sealed and its group continues without it."""


class WorkerError(WoodshedError, RuntimeError):
    """Rollout workers cannot be started or all ended; the run can be resumed. On a trajectory: its own ended."""


class McpServerError(WoodshedError, RuntimeError):
    """An MCP server cannot be used: it wants a key, has no tools, or breaks the protocol; raised by `mcp`."""


class McpServerUnreachable(McpServerError, ConnectionError):
    """Nothing answers at the MCP server's address, its command does not run, or its session ended early."""


class TraceServerError(WoodshedError, ConnectionError):
    """Nothing takes traces at the address, or the server refuses them; raised by `traces`."""


class JudgeError(WoodshedError, RuntimeError):
    """A judge gave no usable verdict, even after a repair request; raised by `rewards.ruler`."""


class JudgeRefused(JudgeError):
    """A judge will refuse every request: no valid key, no credit, no such model; the run can be resumed."""


class CostCeilingError(WoodshedError, RuntimeError):
    """The next judge request would exceed the run's cost limit; verdicts are kept, and the run can be resumed."""


class NothingToLearn(WoodshedError, RuntimeError):
    """Several steps in a row trained nothing; finished steps are kept, and the run can be resumed."""


class ExportError(WoodshedError, RuntimeError):
    """A trained LoRA cannot be exported as asked: merging, writing or the hub failed; raised by `export`."""


class CheckError(WoodshedError, RuntimeError):
    """A check before the first step failed, and rollouts would have been wasted; raised by `training.doctor`."""


class EngineError(WoodshedError, RuntimeError):
    """The engine cannot do what was requested; raised by `engine`."""


class EngineMissing(EngineError):
    """The engine environment is not installed; `woodshed engine install` makes it."""


class EngineUnreachable(EngineError, ConnectionError):
    """Nothing answers at the engine's address."""


class RequestRefused(EngineError, ValueError):
    """The engine cannot use what was sent to it, such as a conversation that its chat template cannot write."""


class PolicyLost(EngineError):
    """Another run holds the policy that this one opened; finished steps are kept, and the run can be resumed."""


class TrainError(EngineError):
    """An optimizer step could not be taken; the policy is as it was before."""


class DriftError(TrainError):
    """Trainer and engine disagree about the log-probabilities of the sampled tokens; no step was taken."""
