"""Tables of the notebooks: the KPIs of the newest week for a branch manager, checks, and any frame.

Every function takes frames and returns HTML. `weeks` is what `select_full_weeks` returns, `definitions` are the
company's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import pandas as pd

from stkpi.formatting import format_day, format_rounded, format_short_day
from stkpi.kpis.catalog import BOTH, DIVISIONS, Kpi
from stkpi.kpis.definition import Definition
from stkpi.reporting.fragments import Fragment, render_fragment
from stkpi.reporting.record import record
from stkpi.reporting.weeks import (
    USUAL_WEEKS,
    describe_change,
    drop_idle_units,
    find_final_day,
    find_provisional,
    name_week,
    select_full_weeks,
    select_units,
)
from stkpi.spreadsheets import format_csv

__all__ = [
    "attach_files",
    "render_checks",
    "render_history",
    "render_table",
    "render_text",
    "render_tiles",
    "render_units_tables",
    "select_full_weeks",
]
COLORS = ("red", "yellow", "green")
PROVISIONAL = "provisional"
_KEEP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Cell:
    """A number with the note under it; its mood is good, bad, flat or provisional. `sentence` says what is counted."""

    label: str
    sentence: str
    value: str
    note: str
    mood: str


def _make_cell(kpi: Kpi, week: pd.Timestamp, now: pd.Series, before: pd.Series | None) -> Cell:
    value = format_rounded(now[kpi.name], kpi.kind)
    if now["is_provisional"] and kpi.complete_after and pd.notna(now[kpi.name]):
        note, mood = f"until {format_short_day(find_final_day(kpi, week))}", PROVISIONAL
    else:
        note, mood = describe_change(now[kpi.name], before[kpi.name], kpi) if before is not None else ("", "flat")
    # In a narrow column it breaks between two numbers and nowhere else.
    note = note.replace(" ", _KEEP).replace(f"{_KEEP}to{_KEEP}", f" to{_KEEP}")
    return Cell(kpi.label, kpi.sentence, value, note, mood)


def render_tiles(company: pd.DataFrame, definitions: Mapping[str, Definition]) -> Fragment:
    """Return the company's KPIs of the newest week as tiles, each with its change against the week before, and below
    them which KPIs count by a definition that the company adopted.

    company: what `figures.read_company_weeks` returns
    """
    if company.empty:
        return Fragment("<p>There is no full week yet (Monday to Sunday).</p>")
    kpis = _kpis(definitions)
    newest = company.index[-1]
    before = company.iloc[-2] if len(company) > 1 else None
    return render_fragment(
        "tiles",
        title=f"The company, {name_week(newest)}",
        tiles=[_make_cell(kpi, newest, company.iloc[-1], before) for kpi in kpis],
        adopted=[f"{d.kpi.label}: {d.describe()}" for d in definitions.values() if d.departures],
    )


def render_units_tables(weeks: pd.DataFrame, definitions: Mapping[str, Definition]) -> Fragment:
    """Return the newest week of every unit with its change: a table of the units that sell, one of those that produce.

    A unit that does both is in both; where all do, there is one table with all KPIs.
    """
    if weeks.empty:
        return Fragment("")
    kpis = _kpis(definitions)
    if weeks["division"].eq(BOTH).all():
        units = drop_idle_units(weeks, kpis)
        return _render_units("Sales and production units", weeks if units.empty else units, kpis)
    found = []
    for division in DIVISIONS:
        units = select_units(weeks, division, kpis)
        if len(units):
            found.append(_render_units(f"{division} units", units, [k for k in kpis if k.division == division]))
    return Fragment("".join(str(table.data) for table in found))


def _render_units(heading: str, weeks: pd.DataFrame, kpis: Iterable[Kpi]) -> Fragment:
    newest = weeks["week_start"].max()
    now = weeks[weeks["week_start"] == newest].set_index("business_unit").sort_index()
    before = weeks[weeks["week_start"] == newest - pd.Timedelta(weeks=1)].set_index("business_unit")
    rows = {
        unit: [_make_cell(kpi, newest, row, before.loc[unit] if unit in before.index else None) for kpi in kpis]
        for unit, row in now.iterrows()
    }
    return render_fragment("units", title=f"{heading}, {name_week(newest)}", columns=list(kpis), rows=rows)


def render_history(weeks: pd.DataFrame, definitions: Mapping[str, Definition], count: int = USUAL_WEEKS) -> Fragment:
    """Return the last `count` weeks of every unit, newest first, one fold-out table per unit."""
    if weeks.empty:
        return Fragment("")
    recent = drop_idle_units(weeks, _kpis(definitions))
    recent = recent[recent["week_start"] > weeks["week_start"].max() - pd.Timedelta(weeks=count)]
    tables = {}
    for unit, rows in recent.groupby("business_unit"):
        kpis = [kpi for kpi in _kpis(definitions) if rows["division"].isin(kpi.divisions).any()]
        provisional = {kpi.name: find_provisional(kpi, rows) for kpi in kpis}
        tables[unit] = {
            "columns": kpis,
            "rows": {
                format_day(row["week_start"]): [
                    {"value": format_rounded(row[kpi.name], kpi.kind), "provisional": provisional[kpi.name][index]}
                    for kpi in kpis
                ]
                for index, row in rows.iloc[::-1].iterrows()
            },
        }
    return render_fragment("folds", tables=tables)


def render_table(frame: pd.DataFrame) -> Fragment:
    """Return any frame as a table: numbers right-aligned with thousands separators, scrolling inside its own box; one
    without rows is "None."

    Money (Decimal) has cents, a float one digit.
    """
    shown = frame.copy()
    money = [
        column for column in frame if len(frame) and frame[column].map(lambda cell: isinstance(cell, Decimal)).all()
    ]
    numeric = money + [column for column in frame if pd.api.types.is_numeric_dtype(frame[column])]
    for column in numeric:
        digits = 2 if column in money else 1 if pd.api.types.is_float_dtype(frame[column]) else 0
        form = f",.{digits}f" if digits else ","  # with f, a number above 2^53 would be rounded
        shown[column] = [format(value, form) if pd.notna(value) else "—" for value in frame[column]]
    return render_fragment(
        "plain", columns=[str(column) for column in shown], numeric=numeric, rows=shown.fillna("").to_dict("records")
    )


def render_text(headline: str = "", lines: Iterable[str] = ()) -> Fragment:
    """Return a sentence that stands out and a list of others, as text: names in them are neither Markdown nor HTML."""
    return render_fragment("text", headline=headline, lines=list(lines))


def attach_files(frames: Mapping[str, pd.DataFrame]) -> Fragment:
    """Have the runner write each frame, under its name, as a CSV beside the page; returns the links to them."""
    record(files={name: format_csv(frame) for name, frame in frames.items()})
    return render_fragment("links", frames=frames)


def render_checks(checks: pd.DataFrame) -> Fragment:
    """Return checks (color, severity, check, found, remedy) in their order: each that is not green with its remedy, and
    the green ones folded away; above them how many there are of each color.
    """
    counts = {color: int((checks["color"] == color).sum()) for color in COLORS}
    return render_fragment("checks", counts=counts, checks=checks.to_dict("records"))


def _kpis(definitions: Mapping[str, Definition]) -> list[Kpi]:
    return [definition.kpi for definition in definitions.values()]
