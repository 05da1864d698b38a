"""The points at which something is killed. Each is reached by what can be observed, and held still to be sure of it.

A point returns once the training is there, with what is held still; the caller kills and then releases it. A moment
that has passed before the process stood still is not counted: the training goes on to the next one.
"""

from __future__ import annotations

from collections.abc import Callable

from killing.child import GROUPS, HELD_OUT, MEMBERS
from killing.life import Life
from killing.processes import hold, is_computing, kill, release

Held = list[tuple[int, bool]]
"""Processes that stand still: id, and whether the whole group does."""
_TRIES = 40


def starting(life: Life) -> Held:
    """The engine is up and imports vLLM: its fork server runs, and no model server has answered yet."""
    if life.process("vLLM") is not None:
        _start_again(life)
    life.wait(lambda: life.process("fork server"), "the fork server is started", every_s=0.02)
    assert life.process("vLLM") is None
    return []


def writing_config(life: Life) -> Held:
    """config.json is written aside and has not replaced the old one."""
    aside = life.folder / ".config.json.tmp"
    for _ in range(_TRIES):
        _start_again(life)
        client = life.client
        assert client is not None
        before = _modified(life)
        while not aside.exists() and _modified(life) == before and life.client is not None:
            pass
        hold(client)
        if aside.exists():
            return [(client, False)]
    raise TimeoutError("config.json was always written before anything could see it")


def evaluating(name: str) -> Callable[[Life], Held]:
    """Return the point at which some rollouts of an evaluation are stored and others are in flight."""

    def reach(life: Life) -> Held:
        life.judge.open(name == "after")
        first = life.rollouts(name)
        return _between_rollouts(life, lambda: name, first, HELD_OUT * MEMBERS)

    return reach


def sampling(life: Life) -> Held:
    """Some rollouts of the step are stored and others are in flight."""
    if life.rollouts(life.step()):  # this one is under way: the next
        _to_next_step(life)
    return _between_rollouts(life, lambda: life.step(), 0, GROUPS * MEMBERS)


def judging(life: Life) -> Held:
    """Requests for verdicts are in flight."""
    life.wait(lambda: life.judge.waiting > 0, "the judge is asked")
    return []


def idle(life: Life) -> Held:
    """All rollouts of the step are finished: engine, vLLM and trainer wait for the judge."""
    life.wait(life.is_sampled, "the step is sampled")
    assert life.open_sessions() == 0
    return []


def judged(life: Life) -> Held:
    """All verdicts of the step are stored, and the engine has not read the request for its step."""
    life.wait(life.is_sampled, "the step is sampled")
    gateway, step = life.process("gateway"), life.step()
    assert gateway is not None
    hold(gateway)
    life.judge.open()
    life.wait(lambda: life.judged(step) == GROUPS, "all verdicts are stored")
    life.judge.open(False)
    return [(gateway, False)]


def stepping(life: Life) -> Held:
    """The trainer computes, and has not begun to write the checkpoint."""

    def there(step: int, versions: list[int], trainer: int) -> bool:
        life.wait(lambda: life.judged(step) == GROUPS, "all verdicts are stored", every_s=0.0005)
        life.wait(lambda: is_computing(trainer) or life.step() > step, "the trainer computes", every_s=0.0002)
        hold(trainer)
        return life.step() == step and life.versions() == versions and not life.is_writing_checkpoint()

    return _in_trainer(life, there)


def writing_checkpoint(life: Life) -> Held:
    """A checkpoint is half-written."""

    def there(step: int, versions: list[int], trainer: int) -> bool:
        life.wait(
            lambda: life.is_writing_checkpoint() or life.versions() != versions, "a checkpoint is written", every_s=0.0
        )
        hold(trainer)
        return life.is_writing_checkpoint()

    return _in_trainer(life, there)


def swapping(life: Life) -> Held:
    """The step is taken and its checkpoint whole; vLLM has been asked for the new LoRA and has not answered."""
    life.wait(life.is_sampled, "the step is sampled")
    step, version, vllm = life.step(), life.versions()[-1], life.process("vLLM")
    assert vllm is not None
    hold(vllm, group=True)
    life.judge.open()
    life.wait(lambda: life.served_version() == version + 1, "the step is taken", every_s=0.02)
    life.judge.open(False)
    assert life.step() == step and life.versions()[-1] == version + 1
    return [(vllm, True)]


def having(
    reach: Callable[[Life], Held], *, replicas: int = 1, trainers: int = 1, engine: str = "local"
) -> Callable[[Life], Held]:
    """Return a point in a training that goes on with as many replicas of the policy and as many trainers, and there.

    Of the replicas, the first is held.
    """

    def reached(life: Life) -> Held:
        wanted = (replicas, max(trainers, life.least_trainers), engine)
        if (life.replicas, life.trainers, life.engine) != wanted:
            life.replicas, life.trainers, life.engine = wanted
            _start_again(life)
        life.wait(lambda: life.process("replica"), "the first replica is there", every_s=0.02)
        return reach(life)

    return reached


def _between_rollouts(life: Life, group: Callable[[], int | str], first: int, total: int) -> Held:
    for _ in range(_TRIES):
        life.wait(lambda: first < life.rollouts(group()) < total, f"a rollout of {group()} is stored")
        vllm = life.process("vLLM")
        assert vllm is not None
        hold(vllm, group=True)
        if first < life.rollouts(group()) < total and life.open_sessions():
            return [(vllm, True)]
        release(vllm, group=True)
        if life.rollouts(group()) == total and isinstance(group(), int):
            _to_next_step(life)
    raise TimeoutError("all rollouts were always stored before anything could see it")


def _in_trainer(life: Life, there: Callable[[int, list[int], int], bool]) -> Held:
    for _ in range(_TRIES):
        life.wait(life.is_sampled, "the step is sampled")
        step, versions, trainer = life.step(), life.versions(), life.process("trainer")
        assert trainer is not None
        life.judge.open()
        arrived = there(step, versions, trainer)
        life.judge.open(False)
        if arrived:
            return [(trainer, False)]
        release(trainer)
        life.wait(lambda done=step: life.step() > done, "the step is finished")
    raise TimeoutError("the moment had always passed before the trainer stood still")


def _to_next_step(life: Life) -> None:
    step = life.step()
    life.judge.open()
    life.wait(lambda: life.step() > step, "the step is finished")
    life.judge.open(False)


def _start_again(life: Life) -> None:
    if life.client is not None:
        kill(life.client)
        life.wait(lambda: life.client is None, "the client is gone", alive=False)
    life.judge.forget_waiting()
    life.start()


def _modified(life: Life) -> float:
    file = life.folder / "config.json"
    return file.stat().st_mtime_ns if file.is_file() else 0
