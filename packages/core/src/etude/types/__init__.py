"""The nouns that client and engine share: frozen values without behaviour."""

from etude.types.call import CallNote, Completion, ModelCall, TokenCall, ToolCall
from etude.types.loss import LossSettings
from etude.types.message import Message, Role, ToolRequest, ToolSpec
from etude.types.record import FORMAT, Failure, Record
from etude.types.trajectory import Group, Judgement, Score, Status, Trajectory
from etude.types.wire import (
    PROTOCOL,
    EngineHealth,
    LoraSettings,
    ModelHealth,
    OpenPolicy,
    OpenSession,
    OptimizerSettings,
    PolicyState,
    SealedSession,
    SessionGrant,
    StepReport,
    StepRequest,
    WeightedRollout,
)

__all__ = [
    "FORMAT",
    "PROTOCOL",
    "CallNote",
    "Completion",
    "EngineHealth",
    "Failure",
    "Group",
    "Judgement",
    "LoraSettings",
    "LossSettings",
    "Message",
    "ModelCall",
    "ModelHealth",
    "OpenPolicy",
    "OpenSession",
    "OptimizerSettings",
    "PolicyState",
    "Record",
    "Role",
    "Score",
    "SealedSession",
    "SessionGrant",
    "Status",
    "StepReport",
    "StepRequest",
    "TokenCall",
    "ToolCall",
    "ToolRequest",
    "ToolSpec",
    "Trajectory",
    "WeightedRollout",
]
