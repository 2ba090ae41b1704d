"""Charts of the notebooks; a title says the answer. Every function returns HTML with its charts as SVG inside, and for
JupyterLab the same charts as Vega-Lite, which tell the number under the pointer.
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.dates
import matplotlib.ticker
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stkpi.formatting import format_day, format_rounded, format_short_day, show_controls
from stkpi.kpis.catalog import Kpi
from stkpi.kpis.definition import Definition
from stkpi.reporting.fragments import Fragment, render_fragment
from stkpi.reporting.weeks import (
    USUAL_WEEKS,
    compute_usual,
    describe_against_usual,
    find_final_day,
    find_provisional,
    select_units,
)

mpl.rcParams["text.parse_math"] = False  # a name with two dollar signs is no formula
TREND_WEEKS = 26
COLUMNS, WIDTH = 3, 330  # of charts in JupyterLab, in pixels
TEXT = 12  # points: a chart is shown at about its own size at the least
LINE, LONGEST_NAME = 30, 120  # characters beside a bar
INK, GRAY, PALE, MARK, GAIN = "#1f4e79", "#9aa5b1", "#c9d3dd", "#c0392b", "#2e7d4f"


def render_bars(values: pd.Series, title: str, kind: str = "count") -> Fragment:
    """Return one chart of horizontal bars, a bar per entry of `values`; `title` says what it shows.

    Without entries there is no chart, only the title.
    """
    if values.empty:
        return Fragment(f"<p>{html.escape(title)}</p>")
    chart = {"title": title, "image": _draw_bars(values, kind)}
    return _render_charts([chart], [_specify_bars(title, values, kind)])


def render_waterfall(steps: Sequence[tuple[str, float, str]], title: str) -> Fragment:
    """Return the way from one number to another: (name, amount, its text) per step, first and last the numbers.

    What lies between is drawn where it adds or takes away; the axis begins above zero where the steps are small.
    """
    names = [_fill_name(name) for name, _, _ in steps]
    figure, axes = _start_figure(0.6 + 0.2 * sum(2 + name.count("\n") for name in names))
    level, levels = steps[0][1], [steps[0][1]]
    for place, (_, amount, _) in enumerate(steps):
        if place in (0, len(steps) - 1):
            axes.barh(place, amount, color=INK, height=0.62)
        else:
            axes.barh(place, amount, left=level, color=GAIN if amount > 0 else MARK, height=0.62)
            level += amount
            levels.append(level)
    width = max(levels) - min(levels)
    if min(levels) > 3 * width > 0:  # small steps of a large number would not be seen beside it
        axes.set_xlim(left=min(levels) - width)
    axes.axvline(0, color=PALE, linewidth=0.8)
    _label_bars(axes, names, [text for _, _, text in steps])
    return _render_charts([{"title": title, "image": _encode_svg(figure)}], [_specify_waterfall(title, steps)])


def render_trends(company: pd.DataFrame, definitions: Mapping[str, Definition]) -> Fragment:
    """Return a chart per KPI: the company's last half year, with the usual level, the mean of the twelve weeks before
    the newest; weeks that are provisional are gray. A KPI without a number in these weeks has none.

    company: what `figures.read_company_weeks` returns
    """
    if company.empty:
        return Fragment("")
    kpis = [definition.kpi for definition in definitions.values()]
    total = company.tail(TREND_WEEKS)
    charts, specs = [], []
    for kpi in (kpi for kpi in kpis if total[kpi.name].notna().any()):
        values, provisional = total[kpi.name], find_provisional(kpi, total)
        usual = compute_usual(values, provisional)
        charts.append(_draw_trend(kpi, values, provisional, usual))
        specs.append(_specify_trend(kpi, charts[-1]["title"], values, provisional, usual))
    return _render_charts(charts, specs)


def _render_charts(charts: Sequence[Mapping[str, str]], specs: Sequence[Mapping[str, Any]]) -> Fragment:
    """Return pictures, and what JupyterLab draws instead."""
    spec = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "concat": specs, "columns": COLUMNS}
    config = {"font": "sans-serif", "view": {"stroke": None}, "concat": {"spacing": 30}}
    config |= {"title": {"anchor": "start", "fontSize": TEXT + 1}, "axis": {"labelFontSize": TEXT}}
    return render_fragment("charts", chart=spec | {"config": config} if specs else None, charts=charts)


def _draw_trend(kpi: Kpi, values: pd.Series, provisional: pd.Series, usual: float) -> dict[str, str]:
    newest = values.index[-1]
    figure, axes = _start_figure(2.2)
    complete = values[~provisional]
    axes.plot(complete.index, complete, color=INK, linewidth=1.8)
    color = INK
    if provisional.any():
        color, rest = GRAY, values[provisional | provisional.shift(-1, fill_value=False)]
        axes.plot(rest.index, rest, color=color, linewidth=1.8)
    axes.plot(values.index[-1:], values.iloc[-1:], "o", color=color)
    if pd.notna(usual):
        axes.axhline(usual, color=MARK, linewidth=1, linestyle="--")
    week = pd.Timedelta(weeks=1)  # around a single point the axis would be years long
    axes.set_xlim(values.index[0] - (week if len(values) == 1 else week / 2), values.index[-1] + week / 2)
    locator = mpl.dates.MonthLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mpl.dates.ConciseDateFormatter(locator))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=kpi.kind == "count"))
    axes.yaxis.set_major_formatter(lambda value, _: _shorten(value, kpi.kind))
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    if provisional.iloc[-1]:
        title = _title_provisional(kpi, values.iloc[-1], newest)
    else:
        title = f"{kpi.label}: {describe_against_usual(values.iloc[-1], usual, kpi)}"
    return {"title": title, "sentence": kpi.sentence, "image": _encode_svg(figure)}


def render_unit_charts(weeks: pd.DataFrame, definitions: Mapping[str, Definition]) -> Fragment:
    """Return a chart per KPI: the newest week of every unit that has it, best first, with each unit's usual level.

    While it is provisional no unit is best, and they stand in the order of their names.
    """
    charts, specs = [], []
    kpis = [definition.kpi for definition in definitions.values()]
    for kpi in kpis:
        rows = select_units(weeks, kpi.division, kpis)
        newest = weeks["week_start"].max()
        now = rows[rows["week_start"] == newest].set_index("business_unit").sort_index()
        if now.empty or now[kpi.name].isna().all():
            continue
        is_provisional = bool(find_provisional(kpi, now).any())
        values = now[kpi.name]
        if not is_provisional:
            values = values.sort_values(ascending=kpi.good < 0, kind="stable")
        before = rows[(rows["week_start"] < newest) & ~find_provisional(kpi, rows)]
        usual = before.groupby("business_unit")[kpi.name].apply(lambda each: each.tail(USUAL_WEEKS).mean())
        if is_provisional:
            title = f"{kpi.label}: provisional until {format_short_day(find_final_day(kpi, newest))}"
        else:
            title = f"{kpi.label}: {describe_best(values.dropna(), kpi)}"
        style = (usual.reindex(values.index), GRAY if is_provisional else INK)
        charts.append({"title": title, "sentence": kpi.sentence, "image": _draw_bars(values, kpi.kind, *style)})
        specs.append(_specify_bars(title, values, kpi.kind, *style))
    return _render_charts(charts, specs)


def describe_best(values: pd.Series, kpi: Kpi) -> str:
    """Return which unit is best; `values` are the units' numbers, best first. Units that show the same number tie."""
    shown = [format_rounded(value, kpi.kind) for value in values]
    units = [str(unit) for unit, text in zip(values.index, shown, strict=True) if text == shown[0]]
    best = "highest" if kpi.good > 0 else "lowest"
    if len(values) == 1:
        return f"{shown[0]} in {units[0]}"
    if len(units) == len(values):
        return f"{shown[0]} in every unit"
    if len(units) == 1:
        return f"{units[0]} is {best} with {shown[0]}"
    names = " and ".join(units) if len(units) == 2 else f"{len(units)} units"  # noqa: PLR2004 more names are too long
    return f"{names} tie for {best} with {shown[0]}"


def _title_provisional(kpi: Kpi, value: float, week: pd.Timestamp) -> str:
    number = format_rounded(value, kpi.kind)
    return f"{kpi.label}: {number}, provisional until {format_short_day(find_final_day(kpi, week))}"


def _encode_svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Text stays text: small files, and the page's reader can enlarge it. The salt and the date keep reruns identical.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stkpi", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _start_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelsize=TEXT)
    return figure, axes


def _draw_bars(values: pd.Series, kind: str, marks: pd.Series | None = None, color: str = INK) -> str:
    """Horizontal bars in the order of `values`, the first at the top; `marks` puts a tick on each (its usual level)."""
    figure, axes = _start_figure(0.5 + 0.3 * len(values))
    places = range(len(values))
    axes.barh(places, values.fillna(0), color=color, height=0.62)
    if marks is not None:
        axes.plot(marks, places, "|", color=MARK, markersize=12, markeredgewidth=2)
    _label_bars(
        axes,
        [_fill_name(str(name), LINE * 2) for name in values.index],
        [format_rounded(value, kind) for value in values],
    )
    return _encode_svg(figure)


def _fill_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Break a name into lines, and cut one that would leave no room for its bar."""
    return textwrap.fill(show_controls(name if len(name) <= longest else f"{name[: longest - 1]}…"), LINE)


def _label_bars(axes: Axes, names: Sequence[str], amounts: Sequence[str]) -> None:
    """Put a name left and an amount right of every bar, the first at the top, instead of an axis."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(amounts)), [show_controls(amount) for amount in amounts])
    right.tick_params(length=0, labelsize=TEXT)
    right.spines["right"].set_visible(False)


def _shorten(value: float, kind: str) -> str:
    if kind == "rate":
        return f"{value:.0%}"
    scale, letter = next(((size, name) for size, name in ((1e6, "M"), (1e3, "K")) if abs(value) >= size), (1, ""))
    return f"{'$' if kind == 'money' else ''}{value / scale:,.3g}{letter}"


# --- the same for JupyterLab ------------------------------------------------------------------------------------------

_AXIS = {"count": ",d", "money": "$.3~s", "rate": ".0%"}


def _specify(title: str, height: int, layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"title": textwrap.wrap(show_controls(title), 50), "width": WIDTH, "height": height, "layer": layers}


def _specify_layer(
    mark: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], told: Mapping[str, str], **encoding: Any
) -> dict[str, Any]:
    """One layer of a chart; `told`: the fields that are told under the pointer, by their titles."""
    tooltip = [{"field": field, "type": "nominal", "title": title} for title, field in told.items()]
    return {"mark": mark, "data": {"values": list(rows)}, "encoding": {**encoding, "tooltip": tooltip}}


def _specify_trend(kpi: Kpi, title: str, values: pd.Series, provisional: pd.Series, usual: float) -> dict[str, Any]:
    known = values.dropna()
    rows = [
        {"week": f"{week:%Y-%m-%dT00:00:00}", "day": format_day(week), "value": float(value), "text": text}
        for week, value in zip(pd.DatetimeIndex(known.index), known, strict=True)
        for text in [format_rounded(value, kpi.kind)]
    ]
    x = {"field": "week", "type": "temporal", "title": None, "axis": {"format": "%b", "tickCount": "month"}}
    y: dict[str, Any] = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}}
    y["axis"] = {"format": _AXIS[kpi.kind], "tickCount": 4}
    open_weeks = {f"{week:%Y-%m-%dT00:00:00}" for week, is_open in provisional.items() if is_open}
    mark: dict[str, Any] = {"type": "line", "point": True}
    final = [row for row in rows if row["week"] not in open_weeks]
    rest = [*final[-1:], *(row for row in rows if row["week"] in open_weeks)] if open_weeks else []
    told = {"Week of": "day", kpi.label: "text"}
    layers = [
        _specify_layer(mark | {"color": color}, part, told, x=x, y=y)
        for part, color in ((rest, GRAY), (final, INK))
        if part
    ]
    if pd.notna(usual):
        rule = {"type": "rule", "color": MARK, "strokeDash": [5, 4]}
        level = [{"usual": float(usual), "text": format_rounded(usual, kpi.kind)}]
        layers.append(_specify_layer(rule, level, {"Usual": "text"}, y={"field": "usual", "type": "quantitative"}))
    return _specify(title, 150, layers)


def _specify_bars(
    title: str, values: pd.Series, kind: str, marks: pd.Series | None = None, color: str = INK
) -> dict[str, Any]:
    rows = [
        {"name": _name_bar(name, place), "value": float(value), "text": format_rounded(value, kind)}
        for place, (name, value) in enumerate(values.fillna(0).items())
    ]
    y, told = _specify_names(), {"": "name", "Number": "text"}
    x = {"field": "value", "type": "quantitative", "title": None, "axis": {"format": _AXIS[kind], "tickCount": 4}}
    layers = [_specify_layer({"type": "bar", "color": color}, rows, told, x=x, y=y)]
    if marks is not None:
        usual = [
            {"name": row["name"], "value": float(mark), "text": format_rounded(mark, kind)}
            for row, mark in zip(rows, marks, strict=True)
            if pd.notna(mark)
        ]
        tick = {"type": "tick", "color": MARK, "thickness": 2}
        layers.append(_specify_layer(tick, usual, {"": "name", "Usual": "text"}, x=x, y=y))
    return _specify(title, 26 * len(values), layers)


def _specify_waterfall(title: str, steps: Sequence[tuple[str, float, str]]) -> dict[str, Any]:
    rows, level = [], steps[0][1]
    for place, (name, amount, text) in enumerate(steps):
        row = {"name": _name_bar(name, place), "text": text, "color": INK, "start": 0.0, "end": float(amount)}
        if place not in (0, len(steps) - 1):
            row |= {"start": float(level), "end": float(level + amount), "color": GAIN if amount > 0 else MARK}
            level += amount
        rows.append(row)
    x = {"field": "start", "type": "quantitative", "title": None, "axis": {"tickCount": 4}}
    color = {"field": "color", "type": "nominal", "scale": None}
    bar = _specify_layer(
        {"type": "bar"}, rows, {"": "name", "Amount": "text"}, x=x, x2={"field": "end"}, y=_specify_names(), color=color
    )
    return _specify(title, 30 * len(steps), [bar])


def _specify_names() -> dict[str, Any]:
    return {"field": "name", "type": "nominal", "title": None, "sort": None, "axis": {"labelLimit": 260}}


def _name_bar(name: object, place: int) -> str:
    """A name that no other bar has, so that two of one name are two bars."""
    return show_controls(str(name)) + "\N{ZERO WIDTH SPACE}" * place
