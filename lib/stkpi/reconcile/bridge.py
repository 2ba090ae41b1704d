"""From their number to ours in steps, each of them one reason: the changes add up exactly, also for ratios and for
distinct counts, because every step is the number itself, computed anew over the rows as they stand after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pandas as pd

from stkpi.reconcile.comparisons import Comparison
from stkpi.reconcile.reasons import DIFFERENT, HERE, IDENTICAL, THERE

_ORDER = (THERE, DIFFERENT, HERE)


@dataclass(frozen=True)
class Step:
    """What the rows of one side and reason change in the number, and what it is after them."""

    side: str
    reason: str
    rows: int
    change: Fraction
    after: Fraction


def number(rows: pd.DataFrame, comparison: Comparison, hand: str) -> Fraction:
    """The KPI of the rows; hand: `there` or `here`, whose customers and amounts count."""
    sums = {column.name: _sum(rows[f"{column.name}_{hand}"]) for column in comparison.columns}
    return comparison.number(rows[f"who_{hand}"].nunique(), sums)


def steps(rows: pd.DataFrame, comparison: Comparison) -> Iterator[Step]:
    """Walk from the export's rows to ours: first take away what only it has, then mend amounts, then add what it lacks.

    rows: as `reasons.explain` gives them
    """
    names = ["who", *(column.name for column in comparison.columns)]
    there = rows[rows["side"] != HERE]
    state = there[[f"{name}_there" for name in names]].set_axis(names, axis=1)
    here = rows[rows["side"] != THERE]
    target = here[[f"{name}_here" for name in names]].set_axis(names, axis=1)
    # An amount within its tolerance is ours from the start: cents of rounding are no step of their own.
    before = _value(state, comparison)
    same = rows.index[rows["side"] == IDENTICAL]
    state = pd.concat([state.drop(index=same), target.loc[same]])
    rounding = _value(state, comparison) - before
    if rounding:
        before += rounding
        yield Step(IDENTICAL, "rounding", len(same), rounding, before)
    for side in _ORDER:
        of_side = rows[rows["side"] == side]
        for reason, group in of_side.groupby("reason", sort=True):
            state = state.drop(index=group.index, errors="ignore")
            if side != THERE:
                state = pd.concat([state, target.loc[group.index]])
            after = _value(state, comparison)
            yield Step(side, str(reason), len(group), after - before, after)
            before = after


def _value(state: pd.DataFrame, comparison: Comparison) -> Fraction:
    sums = {column.name: _sum(state[column.name]) for column in comparison.columns}
    return comparison.number(state["who"].nunique(), sums)


def _sum(amounts: pd.Series) -> Decimal:
    return sum(amounts, Decimal(0))
