"""Results of comparisons in pairs → one score per attempt, and which pairs of a large group to compare.

The Bradley-Terry model says that i beats j with probability g_i / (g_i + g_j), where g is an attempt's strength
(Bradley and Terry 1952, https://doi.org/10.1093/biomet/39.3-4.324). The fit is the minorisation-maximisation of Hunter
(2004, https://doi.org/10.1214/aos/1079120141), with one virtual tie of every attempt against one of strength 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

Pair = tuple[int, int]
_ITERATIONS = 1_000
_PRECISION = 1e-7


def win_rates(count: int, results: Mapping[Pair, Sequence[float]]) -> list[float]:
    """Return each attempt's score: its mean probability of beating another attempt of the group, above 0 and below 1.

    Args:
        count: number of attempts, at least 2.
        results: pair (i, j) → the result of each comparison: the probability that i is better. 0.5 is a tie.
    """
    strength = _strengths(count, results)
    return [
        math.fsum(own / (own + other) for j, other in enumerate(strength) if j != i) / (count - 1)
        for i, own in enumerate(strength)
    ]


def _strengths(count: int, results: Mapping[Pair, Sequence[float]]) -> list[float]:
    """Return the g that maximise the likelihood of the results and of one virtual tie of each attempt.

    Without the virtual tie, an attempt that always wins would have no finite strength.
    """
    games: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    wins = [0.5] * count
    for (i, j), values in results.items():
        games[i].append((j, len(values)))
        games[j].append((i, len(values)))
        wins[i] += math.fsum(values)
        wins[j] += math.fsum(1 - v for v in values)
    strength = [1.0] * count
    for _ in range(_ITERATIONS):
        expected = [
            1 / (own + 1) + math.fsum(n / (own + strength[j]) for j, n in games[i]) for i, own in enumerate(strength)
        ]
        updated = [won / share for won, share in zip(wins, expected, strict=True)]
        change = max(abs(math.log(new / old)) for new, old in zip(updated, strength, strict=True))
        strength = updated
        if change < _PRECISION:
            break
    return strength


def rounds_of(count: int) -> int:
    """Return the number of rounds for `count` attempts; 0 means that every pair is compared, as that is no dearer.

    A round compares every attempt once, so the number of pairs grows as N log2 N.
    """
    rounds = 2 * math.ceil(math.log2(count)) if count > 1 else 0
    return 0 if math.comb(count, 2) <= rounds * (count // 2) else rounds


def all_pairs(count: int) -> list[Pair]:
    """Return every pair once."""
    return list(combinations(range(count), 2))


def next_round(order: Sequence[int], results: Mapping[Pair, Sequence[float]]) -> list[Pair]:
    """Return the next round's pairs, as in a Swiss tournament: neighbours in the ranking that have not met yet.

    Args:
        order: attempts in a random order, which decides between equals.
        results: results of all comparisons so far.
    """
    won: Counter[int] = Counter()
    met: Counter[int] = Counter()
    for (i, j), values in results.items():
        mean = math.fsum(values) / len(values)
        won.update({i: mean, j: 1 - mean})
        met.update((i, j))
    ranking = sorted(order, key=lambda i: -won[i])
    if len(ranking) % 2:
        ranking.remove(max(reversed(ranking), key=lambda i: met[i]))
    pairs = []
    while ranking:
        first = ranking.pop(0)
        second = next((i for i in ranking if _pair(first, i) not in results), None)
        if second is not None:
            ranking.remove(second)
            pairs.append(_pair(first, second))
    return pairs


def _pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)
