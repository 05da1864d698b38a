"""What every rank of a trainer does: answer the engine's questions about one policy, in order, until there are none."""

from __future__ import annotations

from collections.abc import Callable

from woodshed.engine.trainer.backend import import_loader
from woodshed.engine.trainer.ranks import ALONE, Ranks
from woodshed.engine.trainer.worker_protocol import QUESTIONS, Answer, Ready, Refused, Start, Step, Stepped
from woodshed.errors import DriftError, TrainError


def serve(read: Callable[[], bytes | None], send: Callable[[Answer], None], ranks: Ranks = ALONE) -> None:
    """Load the policy that the first question names, then take steps.

    Args:
        read: Returns the next question as JSON, or None at the end; called on the first rank only.
        send: Answers a question; called on the first rank only.
        ranks: Those that train this policy together.
    """
    answer = send if ranks.is_first else _drop
    if (body := ranks.from_first(read)) is None:
        return
    start = QUESTIONS.validate_json(body)
    assert isinstance(start, Start)
    try:
        ranks.each(lambda: import_loader(start.policy))
        # transformers and PEFT, which these import, must be imported after Unsloth.
        from woodshed.engine.trainer.gpu_turn import GpuTurn
        from woodshed.engine.trainer.memory import keep_freed_memory
        from woodshed.engine.trainer.policy_run import PolicyRun

        keep_freed_memory()
        run = PolicyRun(start, ranks)
        turn = GpuTurn(run.policy.model, run.policy.device, leaves=start.leaves_gpu)
    except TrainError as error:
        answer(Refused(message=str(error)))
        return
    answer(Ready(state=run.state))
    while (body := ranks.from_first(read)) is not None:
        message = QUESTIONS.validate_json(body)
        assert isinstance(message, Step)
        result: Answer
        try:
            with turn.taken():
                result = Stepped(report=run.step(message))
        except TrainError as error:
            result = Refused(message=str(error), drift=isinstance(error, DriftError))
        answer(result)
        # Anything else ends this process: the parent starts it again from the newest checkpoint.


def _drop(_: Answer) -> None:
    """Say nothing: the first rank answers for all."""
