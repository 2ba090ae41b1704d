"""Who is to credit for a change to which several contribute: the Shapley value, exact.

Each contributes what it adds when it comes, on average over all orders in which they can come (L. S. Shapley, A value
for n-person games, 1953). The shares add up to the whole change, whatever the interplay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb


def shares(players: Sequence[str], value: Callable[[frozenset[str]], Fraction]) -> dict[str, Fraction]:
    """The share of each player in value(all) - value(none).

    value: the value with the given players taking part; asked once for each of the 2^n sets
    """
    value = cache(value)
    count = len(players)
    found = {}
    for player in players:
        others = [other for other in players if other != player]
        total = Fraction(0)
        for size in range(count):
            weight = Fraction(1, count * comb(count - 1, size))
            for before in map(frozenset, combinations(others, size)):
                total += weight * (value(before | {player}) - value(before))
        found[player] = total
    return found
