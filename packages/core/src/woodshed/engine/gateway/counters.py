"""What is counted for a run over all lives of the engine: swaps, failed calls, restarts of vLLM."""

from __future__ import annotations

from collections import Counter

from woodshed.engine.gateway.store import Store

SWAPS, FAILED_CALLS = "lora_swaps", "failed_calls"
_NEWEST = "newest_version"


def restarts_of(model: str) -> str:
    """Return the name of the count of a model's restarts."""
    return f"restarts/{model}"


class Counters:
    """Counts for each run that holds a policy; while none does, for this life of the engine."""

    def __init__(self, store: Store) -> None:
        """Count in `store`."""
        self._store = store
        self._this_life: Counter[str] = Counter()
        self._run_of: dict[str, str] = {}

    def hold(self, policy: str, run_id: str) -> None:
        """Count for a run from now on, which has opened a policy; the run that held it before is counted no further."""
        self._run_of[policy] = run_id

    def add(self, name: str) -> None:
        """Count one more, for whoever is training."""
        self._this_life[name] += 1
        for run_id in self._runs():
            self._store.count(run_id, name)

    def serve(self, run_id: str, version: int, *, is_trained: bool = True) -> None:
        """Count a version of a run's weights the first time that it is served.

        Args:
            run_id: The run.
            version: The version that calls now get.
            is_trained: Whether a step of the run made it; an adapter that the run starts from is not counted.
        """
        newest = self._store.counts(run_id).get(_NEWEST, 0)
        if version > newest:
            self._store.count(run_id, _NEWEST, version - newest)
            if is_trained:
                self._store.count(run_id, SWAPS)

    def total(self, name: str) -> int:
        """Return a count over the whole life of the runs that hold a policy."""
        runs = self._runs()
        return sum(self._store.counts(run).get(name, 0) for run in runs) if runs else self._this_life[name]

    def _runs(self) -> set[str]:
        return set(self._run_of.values())
