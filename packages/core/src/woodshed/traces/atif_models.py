"""The models of ATIF 1.8, of the package `atif`: imported here and nowhere else, since it is an optional dependency.

ATIF is the Agent Trajectory Interchange Format of the Harbor project.
"""

from __future__ import annotations

from woodshed.errors import ConfigError

try:
    from atif import (
        Agent,
        ContentPart,
        FinalMetrics,
        ImageSource,
        Metrics,
        Observation,
        ObservationResult,
        Step,
        SubagentTrajectoryRef,
        ToolCall,
        Trajectory,
    )
except ImportError as error:
    raise ConfigError("ATIF trajectories need the models of the format: pip install 'woodshed[atif]'") from error

VERSION = "ATIF-v1.8"

__all__ = [
    "VERSION",
    "Agent",
    "ContentPart",
    "FinalMetrics",
    "ImageSource",
    "Metrics",
    "Observation",
    "ObservationResult",
    "Step",
    "SubagentTrajectoryRef",
    "ToolCall",
    "Trajectory",
]
