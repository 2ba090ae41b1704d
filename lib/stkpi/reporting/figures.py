"""What the notebooks show: the eleven KPIs as tables and charts for a branch manager, and the figures of a step.

Every function takes frames and returns HTML that reads the same in JupyterLab and on the pages of a run, at any width.
`weekly` is `kpi_weekly_by_bu`: a row per week and unit, money and ratios as Decimal or None.
"""

import base64
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import pandas as pd
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stkpi.warehouse import USAGE

RECORD_MIME = "application/vnd.stkpi+json"
HERE = Path(__file__).parent
AVERAGE_WEEKS = 12
TREND_WEEKS = 26
INK, PALE, MARK, GAIN = "#1f4e79", "#c9d3dd", "#c0392b", "#2e7d4f"


@dataclass(frozen=True)
class Kpi:
    """How a column of the weekly table reads: `kind` is count, money or rate; `good` is the welcome direction."""

    column: str
    label: str
    kind: str
    division: str
    good: int = 1


KPIS = (
    Kpi("leads", "Leads", "count", "Sales"),
    Kpi("estimates_scheduled", "Estimates scheduled", "count", "Sales"),
    Kpi("estimates", "Estimates", "count", "Sales"),
    Kpi("success_rate", "Success rate", "rate", "Sales"),
    Kpi("total_booked", "Total booked", "money", "Sales"),
    Kpi("dollars_produced", "$ produced", "money", "Production"),
    Kpi("gpm", "GPM", "rate", "Production"),
    Kpi("warranty_rate", "Warranty %", "rate", "Production", good=-1),
    Kpi("future_bookings", "Future bookings", "money", "Production"),
    Kpi("dollars_collected", "$ collected", "money", "Production"),
    Kpi("outstanding_ar", "Outstanding A/R", "money", "Production", good=-1),
)
DIVISIONS = ("Sales", "Production")
SUMS = ("opportunities", "closed", "labor_cost", "warranty_cost", *(kpi.column for kpi in KPIS if kpi.kind != "rate"))
NUMBERS = (*SUMS, *(kpi.column for kpi in KPIS if kpi.kind == "rate"))


def record(**figures: Any) -> None:
    """Record the figures of a step (any JSON; dates and Decimals as text), for the runner's summary.json to read.

    Names the summary knows: status ("ok", "partial", "failed"), error, as_of, ingest, checks, observed. `validation` is
    written to validation.json, each of `lines` to the terminal under the step's own, and `files` (see `files`) beside
    the page. What BigQuery bills the notebook's process for is added as bytes_billed.
    """
    if USAGE.statements:
        figures["bytes_billed"] = USAGE.billed
    figures = json.loads(json.dumps(figures, default=str))
    display({RECORD_MIME: figures, "text/plain": f"Recorded: {', '.join(figures)}"}, raw=True)


def full_weeks(weekly: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """The rows of weeks whose Sunday is not after `as_of`, numbers as float, in the order of weeks."""
    frame = weekly.assign(week_start=pd.to_datetime(weekly["week_start"]))
    frame = frame[frame["week_start"] <= pd.Timestamp(as_of - timedelta(days=6))].sort_values("week_start")
    return frame.astype(dict.fromkeys(NUMBERS, float))


def totals(weeks: pd.DataFrame) -> pd.DataFrame:
    """The whole company per week: sums of the units, and ratios of those sums (never a mean of the units' ratios).

    Leads are distinct customers per unit, so one who asks two units counts in both.
    """
    total = weeks.groupby("week_start")[list(SUMS)].sum()
    produced = total["dollars_produced"].where(total["dollars_produced"] != 0)
    return total.assign(
        success_rate=total["closed"] / total["opportunities"].where(total["opportunities"] != 0),
        gpm=(produced - total["labor_cost"]) / produced,
        warranty_rate=total["warranty_cost"] / produced,
    )


def text(value: float, kind: str) -> str:
    """A figure as a manager writes it: 1,234 · $1,234 · 39.7%; a dash where a ratio has no denominator."""
    if pd.isna(value):
        return "—"
    if kind == "rate":
        return f"{value:.1%}"
    sign = "-" if round(value) < 0 else ""
    return f"{sign}{'$' if kind == 'money' else ''}{abs(value):,.0f}"


def change(now: float, before: float, kpi: Kpi) -> tuple[str, str]:
    """The change as text (+5 · +12% of money · +1.2 pt of a rate) and whether it is good, bad or flat."""
    if pd.isna(now) or pd.isna(before) or (kpi.kind == "money" and before == 0):
        return "", "flat"
    if kpi.kind == "rate":
        step, words = round((now - before) * 100, 1), "{:+.1f} pt"
    elif kpi.kind == "money":
        step, words = round((now / before - 1) * 100), "{:+.0f}%"
    else:
        step, words = round(now - before), "{:+,.0f}"
    if step == 0:
        return "=", "flat"
    return words.format(step), "good" if step * kpi.good > 0 else "bad"


def _cell(kpi: Kpi, now: float, before: float) -> dict[str, str]:
    words, mood = change(now, before, kpi)
    return {"label": kpi.label, "value": text(now, kpi.kind), "change": words, "mood": mood}


_environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True)


def _html(macro: str, **values: Any) -> HTML:
    fragment = getattr(_environment.get_template("figures.html").module, macro)(**values)
    return HTML(f"<style>{(HERE / 'figures.css').read_text(encoding='utf-8')}</style>{fragment}")


def week_name(week: pd.Timestamp) -> str:
    """A week as people say it: Aug 18 to Aug 24, 2025."""
    return f"{week:%b} {week.day} to {week + pd.Timedelta(days=6):%b %-d, %Y}"


def headline(weeks: pd.DataFrame) -> HTML:
    """The eleven figures of the company in the newest week, as tiles, each with its change against the week before."""
    total = totals(weeks)
    now, before = total.iloc[-1], total.iloc[-2] if len(total) > 1 else total.iloc[-1] * float("nan")
    tiles = [_cell(kpi, now[kpi.column], before[kpi.column]) for kpi in KPIS]
    return _html("tiles", title=f"The company, {week_name(total.index[-1])}", tiles=tiles)


def units_table(weeks: pd.DataFrame, division: str | None) -> HTML:
    """The newest week of a division's units: a row per unit, a column per KPI of that division, with the change.

    `division` None shows the units that are in neither of the two, with all eleven KPIs; nothing if there is none.
    """
    of_division = weeks[weeks["division"] == division if division else ~weeks["division"].isin(DIVISIONS)]
    if of_division.empty:
        return HTML("")
    kpis = [kpi for kpi in KPIS if division in (None, kpi.division)]
    newest = weeks["week_start"].max()
    now = of_division[of_division["week_start"] == newest].set_index("business_unit")
    before = of_division[of_division["week_start"] == newest - pd.Timedelta(weeks=1)].set_index("business_unit")
    before = before.reindex(now.index)
    rows = {
        unit: [_cell(kpi, now.at[unit, kpi.column], before.at[unit, kpi.column]) for kpi in kpis]
        for unit in sorted(now.index)
    }
    heading = f"{division} units" if division else "Units that sql/business_units.csv puts in no division"
    return _html("units", title=f"{heading}, {week_name(newest)}", columns=[kpi.label for kpi in kpis], rows=rows)


def history(weeks: pd.DataFrame, count: int = AVERAGE_WEEKS) -> HTML:
    """The last `count` weeks of every unit, newest first, one fold-out table per unit."""
    first = weeks["week_start"].max() - pd.Timedelta(weeks=count - 1)
    tables = {}
    for (unit, division), rows in weeks[weeks["week_start"] >= first].groupby(
        ["business_unit", "division"], dropna=False
    ):
        kpis = [kpi for kpi in KPIS if division == kpi.division or division not in DIVISIONS]
        tables[unit] = {
            "columns": ["Week of", *(kpi.label for kpi in kpis)],
            "rows": [
                [f"{row.week_start:%b %-d, %Y}", *(text(getattr(row, kpi.column), kpi.kind) for kpi in kpis)]
                for row in rows.iloc[::-1].itertuples()
            ],
        }
    return _html("folds", tables=tables)


def table(frame: pd.DataFrame) -> HTML:
    """Any frame as a table: numbers right-aligned with thousands separators, scrolling inside its own box.

    Money (Decimal) has cents, a float one digit.
    """
    shown = frame.copy()
    money = [
        column for column in frame if len(frame) and frame[column].map(lambda cell: isinstance(cell, Decimal)).all()
    ]
    numeric = money + [column for column in frame if pd.api.types.is_numeric_dtype(frame[column])]
    for column in numeric:
        digits = 2 if column in money else 1 if pd.api.types.is_float_dtype(frame[column]) else 0
        shown[column] = [f"{value:,.{digits}f}" if pd.notna(value) else "—" for value in frame[column]]
    return _html(
        "plain", columns=[str(column) for column in shown], numeric=numeric, rows=shown.fillna("").to_dict("records")
    )


def files(frames: Mapping[str, pd.DataFrame]) -> HTML:
    """Have the runner write each frame, under its name, as a CSV beside the page; returns the links to them."""
    record(files={name: frame.to_csv(index=False) for name, frame in frames.items()})
    return _html("links", frames=frames)


def stoplight(checks: pd.DataFrame) -> HTML:
    """Checks (color, severity, check, found, remedy) in their order: each that is not green with its remedy, and the
    green ones folded away; above them how many there are of each color.
    """
    counts = {color: int((checks["color"] == color).sum()) for color in ("red", "yellow", "green")}
    return _html("stoplight", counts=counts, checks=checks.to_dict("records"))


# --- charts ---------------------------------------------------------------------------------------------------------


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Text stays text: small files, and the page's reader can enlarge it. The salt and the date keep reruns identical.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stkpi", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
    return figure, axes


def _bars(values: pd.Series, kind: str, marks: pd.Series | None = None) -> str:
    """Horizontal bars in the order of `values`, the first at the top; `marks` puts a tick on each (its usual level)."""
    figure, axes = _figure(0.5 + 0.27 * len(values))
    places = range(len(values))
    axes.barh(places, values.fillna(0), color=INK, height=0.62)
    if marks is not None:
        axes.plot(marks, places, "|", color=MARK, markersize=12, markeredgewidth=2)
    axes.set_yticks(places, [str(name) for name in values.index])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    amounts = axes.secondary_yaxis("right")
    amounts.set_yticks(places, [text(value, kind) for value in values])
    amounts.tick_params(length=0, labelsize=9)
    amounts.spines["right"].set_visible(False)
    return _svg(figure)


def bars(values: pd.Series, title: str, kind: str = "count") -> HTML:
    """One chart of horizontal bars, a bar per entry of `values`; `title` says what it shows."""
    return _html("charts", charts=[{"title": title, "image": _bars(values, kind)}])


def waterfall(steps: Sequence[tuple[str, float, str]], title: str) -> HTML:
    """From one number to another: (name, amount, its text) per step, the first and the last of them the numbers.

    What lies between is drawn where it adds or takes away; the axis begins above zero where the steps are small.
    """
    names = [textwrap.fill(name, 30) for name, _, _ in steps]
    figure, axes = _figure(0.6 + 0.17 * sum(2 + name.count("\n") for name in names))
    level, levels = steps[0][1], [steps[0][1]]
    for place, (_, amount, _) in enumerate(steps):
        if place in (0, len(steps) - 1):
            axes.barh(place, amount, color=INK, height=0.62)
        else:
            axes.barh(place, amount, left=level, color=GAIN if amount > 0 else MARK, height=0.62)
            level += amount
            levels.append(level)
    spread = max(levels) - min(levels)
    if min(levels) > 3 * spread > 0:  # small steps of a large number would not be seen beside it
        axes.set_xlim(left=min(levels) - spread)
    axes.axvline(0, color=PALE, linewidth=0.8)
    axes.set_yticks(range(len(steps)), names)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    amounts = axes.secondary_yaxis("right")
    amounts.set_yticks(range(len(steps)), [words for _, _, words in steps])
    amounts.tick_params(length=0, labelsize=9)
    amounts.spines["right"].set_visible(False)
    return _html("charts", charts=[{"title": title, "image": _svg(figure)}])


def trends(weeks: pd.DataFrame) -> HTML:
    """A chart per KPI: the company's last half year, with the mean of the twelve weeks before the newest."""
    total = totals(weeks).tail(TREND_WEEKS)
    charts = []
    for kpi in KPIS:
        values = total[kpi.column]
        usual = values.iloc[-AVERAGE_WEEKS - 1 : -1].mean()
        figure, axes = _figure(1.9)
        axes.plot(values.index, values, color=INK, linewidth=1.8)
        axes.plot(values.index[-1:], values.iloc[-1:], "o", color=INK)
        axes.axhline(usual, color=MARK, linewidth=1, linestyle="--")
        axes.xaxis.set_major_locator(mpl.dates.MonthLocator())
        axes.xaxis.set_major_formatter(mpl.dates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=kpi.kind == "count"))
        axes.yaxis.set_major_formatter(lambda value, _, kind=kpi.kind: _short(value, kind))
        axes.grid(axis="y", color=PALE, linewidth=0.6)
        charts.append({"title": f"{kpi.label}: {_against(values.iloc[-1], usual, kpi)}", "image": _svg(figure)})
    return _html("charts", charts=charts)


def _short(value: float, kind: str) -> str:
    if kind == "rate":
        return f"{value:.0%}"
    scale, letter = next(((size, name) for size, name in ((1e6, "M"), (1e3, "K")) if abs(value) >= size), (1, ""))
    return f"{'$' if kind == 'money' else ''}{value / scale:,.3g}{letter}"


def _against(now: float, usual: float, kpi: Kpi) -> str:
    words, _ = change(now, usual, kpi)
    if words in ("", "="):
        return f"{text(now, kpi.kind)}, as usual"
    return f"{text(now, kpi.kind)}, {words.lstrip('+-')} {'above' if words[0] == '+' else 'below'} usual"


def compared(weeks: pd.DataFrame) -> HTML:
    """A chart per KPI: the newest week of every unit of its division, best first, with each unit's usual level."""
    newest = weeks["week_start"].max()
    recent = weeks[weeks["week_start"].between(newest - pd.Timedelta(weeks=AVERAGE_WEEKS), newest, inclusive="left")]
    charts = []
    for kpi in KPIS:
        division = weeks["division"] == kpi.division
        values = weeks[division & (weeks["week_start"] == newest)].set_index("business_unit")[kpi.column]
        values = values.sort_values(ascending=kpi.good < 0)
        usual = recent.groupby("business_unit")[kpi.column].mean().reindex(values.index)
        if values.notna().any():
            best = values.first_valid_index()
            title = (
                f"{kpi.label}: {best} is {'highest' if kpi.good > 0 else 'lowest'} with {text(values[best], kpi.kind)}"
            )
            charts.append({"title": title, "image": _bars(values, kpi.kind, usual)})
    return _html("charts", charts=charts)
