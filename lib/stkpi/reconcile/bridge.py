"""From their number to ours in steps, each of them one reason: the changes add up exactly, also for ratios and for
distinct counts, because every step is the number itself, computed over the rows as they stand after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import chain

import pandas as pd

from stkpi.reconcile.comparison import Comparison
from stkpi.reconcile.reasons import DIFFERENT, IDENTICAL, IN_EXPORT, IN_WAREHOUSE, ONLY_EXPORT, ONLY_WAREHOUSE

_ORDER = (ONLY_EXPORT, DIFFERENT, ONLY_WAREHOUSE)


@dataclass(frozen=True)
class Step:
    """What the rows of one side and reason change in the number, and what it is after them."""

    side: str
    reason: str
    rows: int
    change: Fraction
    after: Fraction


def compute_number(rows: pd.DataFrame, comparison: Comparison, suffix: str = "") -> Fraction:
    """Return the KPI of rows: the distinct values of their `members`, or the sums of their amounts.

    suffix: of the columns, IN_EXPORT or IN_WAREHOUSE where the rows have both sides
    """
    sums = {a.name: sum(rows[f"{a.name}{suffix}"], Decimal(0)) for a in comparison.amounts}
    values = set(chain.from_iterable(rows[f"members{suffix}"])) if comparison.distinct else ()
    return comparison.compute_number(len(values), sums)


def list_steps(rows: pd.DataFrame, comparison: Comparison) -> Iterator[Step]:
    """Walk from the export's rows to ours: first take away what only it has, then correct amounts, then add what it
    lacks.

    rows: as `reasons.explain` gives them
    """
    names = ["members", *(amount.name for amount in comparison.amounts)]
    theirs = rows[rows["side"] != ONLY_WAREHOUSE]
    state = theirs[[f"{name}{IN_EXPORT}" for name in names]].set_axis(names, axis=1)
    ours = rows[rows["side"] != ONLY_EXPORT]
    target = ours[[f"{name}{IN_WAREHOUSE}" for name in names]].set_axis(names, axis=1)
    # An amount within its tolerance is ours from the start: cents of rounding are no step of their own.
    before = compute_number(state, comparison)
    same = rows.index[rows["side"] == IDENTICAL]
    state = pd.concat([state.drop(index=same), target.loc[same]])
    rounding = compute_number(state, comparison) - before
    if rounding:
        before += rounding
        yield Step(IDENTICAL, "rounding", len(same), rounding, before)
    for side in _ORDER:
        of_side = rows[rows["side"] == side]
        for reason, group in of_side.groupby("reason", sort=True):
            state = state.drop(index=group.index, errors="ignore")
            if side != ONLY_EXPORT:
                state = pd.concat([state, target.loc[group.index]])
            after = compute_number(state, comparison)
            yield Step(side, str(reason), len(group), after - before, after)
            before = after
