"""Write what people open: the data of the page Explore, and what the home page says of the newest build.

A page that is opened as a file may load scripts and nothing else, so every data file is a script that hands its content
to `book.add`. Figures come formatted; money of rows as whole numbers of its last digit. Rows are packed (JSON, gzip,
base64), by fact table and month.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.formatting import format_day, format_moment, format_number, mask_name
from stkpi.ingest import state
from stkpi.kpis.catalog import BOTH, Kpi
from stkpi.kpis.days import read_days
from stkpi.kpis.definition import Definition, name_facts, read_definitions
from stkpi.kpis.sql import Drill, differing_jobs_sql, list_drills, operands, split_operand
from stkpi.marts import increment
from stkpi.proposal.folder import list_guesses
from stkpi.reconcile.observations.outcomes import (
    MATCHED,
    UNMATCHED,
    Checked,
    check_shown,
    count_outcomes,
)
from stkpi.reporting import changes, pages
from stkpi.reporting.figures import (
    COMPANY,
    WEEK,
    Book,
    Figure,
    Period,
    iterate_figures,
    list_parts,
    name_place,
    read_book,
    select_kpis,
)
from stkpi.spreadsheets import FORMULA

DATA = "data"
HOME, EXPLORE, CHANGES = "home.json", "explore.html", "changes.html"
WEEKS = 13  # that a page has at once, with the same weeks a year ago
MOST_NUMBERS = 6  # whose differing jobs are looked up: each is a query over the candidates
ROW_WEEKS = 106  # two years and the running week: older figures have no rows behind them
_CHOICE = re.compile(r"\b(\w+)=(\w+): ")  # what a command is told; the words after it say the same
_EPOCH = pd.Timestamp(0)


@dataclass(frozen=True)
class Site:
    """What was written: figures and rows of how many weeks, and its size in bytes."""

    figures: int
    rows: int
    bytes: int

    @property
    def line(self) -> str:
        """What the terminal shows."""
        return f"{self.figures:,} figures and {self.rows:,} rows behind them, {self.bytes / 1e6:.1f} MB"


def write_site(runs: Path, run_id: str, as_of: date, explained: Mapping[str, str] | None = None) -> Site:
    """Write the data of the newest build for the pages in the folder `runs`, and the page Explore.

    as_of: the last day of the KPI tables; explained: how numbers that are not ours come about, by their ids
    """
    config = settings.load()
    definitions, own = read_definitions(config), company.read_company(config)
    is_masked = not own.shows_names(config)
    with warehouse.connect(config, read_only=True) as target:
        checked = check_shown(target, definitions)
        noted = {(one.observation.first_day, one.observation.last_day) for one in checked}
        changed = changes.read_changed(target, definitions, datetime.now(UTC), config.time_zone)
        book = read_book(target, definitions, as_of, noted, changed.was)
        last_read = state.read_status(target)["last_read"].max()
        data = runs / DATA / run_id
        data.mkdir(parents=True, exist_ok=True)
        rows = _write_rows(target, data, book, definitions, is_masked=is_masked)
        jobs = _list_jobs(target, checked, explained or {}, definitions, config, is_masked=is_masked)
    numbers = [describe_number(one, explained or {}) | {"jobs": jobs.get(one.observation.id, [])} for one in checked]
    folder = company.find_folder(config)
    name = own.name or ("Your company" if folder == settings.COMPANY else folder.name)
    content = describe_book(book, definitions, own, name) | {"numbers": numbers, "rowsets": rows.manifest}
    content |= {"masked": is_masked, "since": str(_first_row_day(book)), "formula": FORMULA}
    recent, earlier = split_figures(book)
    _write_script(data / "figures.js", "figures", content | {"figures": recent})
    _write_script(data / "earlier.js", "earlier", earlier)
    shutil.copytree(pages.ASSETS, runs / "assets", dirs_exist_ok=True)
    pages.write_text(runs / EXPLORE, pages.render_explore(name, f"{DATA}/{run_id}"))
    pages.write_text(runs / CHANGES, pages.render_changes(name, changes.SHOWN_DAYS, changed.kpis))
    for old in (runs / DATA).iterdir():
        if old.is_dir() and old != data:
            shutil.rmtree(old)
    home = describe_home(book, definitions, own, checked, numbers)
    read_at = None if pd.isna(last_read) else format_moment(last_read.to_pydatetime(), config.time_zone)
    home["guesses"] = {"count": len(list_guesses(config)), "folder": str(company.show_path(folder))}
    for card in home.get("cards", ()):
        card["changed"] = changed.lines.get(card["kpi"])
    home |= {"name": name, "run_id": run_id, "as_of": as_of.isoformat(), "read_at": read_at}
    pages.write_text(runs / DATA / HOME, json.dumps(home, indent=1))
    size = sum(file.stat().st_size for file in [*data.iterdir(), *(runs / "assets").iterdir()])
    return Site(sum(1 for _ in iterate_figures(book)), rows.count, size)


def _write_script(path: Path, name: str, content: Any) -> None:
    path.write_text(f"book.add({json.dumps(name)}, {orjson.dumps(content).decode()});\n", encoding="utf-8")


# --- figures ----------------------------------------------------------------------------------------------------------


def describe_book(book: Book, definitions: Mapping[str, Definition], own: company.Company, name: str) -> dict[str, Any]:
    """Return what the page Explore has to choose from: KPIs, places and periods."""
    drills = list_drills(definitions)
    return {
        "company": name,
        "asOf": book.as_of.isoformat(),
        "through": f"{book.as_of:%A}, {format_day(book.as_of)}",
        "kpis": [describe_kpi(definition, own, drills[key]) for key, definition in definitions.items()],
        "units": [
            {"name": unit, "region": row["region"], "division": row["division"]} for unit, row in book.units.iterrows()
        ],
        "periods": [
            {
                "id": period.id,
                "kind": period.kind,
                "first": period.first.isoformat(),
                "last": period.last.isoformat(),
                "label": period.label,
                "running": period.is_running,
                "before": period.before,
                "days": {
                    key: [str(day) for day in days]
                    for key, definition in definitions.items()
                    if (days := _find_days(definition, period)) != (period.first, period.last)
                },
            }
            for period in book.periods.values()
        ],
    }


def describe_kpi(definition: Definition, own: company.Company, drill: Drill) -> dict[str, Any]:
    """Return what a person wants to know of a KPI, and where the rows behind it are."""
    kpi, measure = definition.kpi, definition["measure"].says
    saved, adoption = own.reports.get(kpi.name), own.find_adoption(kpi.name)
    sums = list_parts(definition) or [kpi.name]
    return {
        "id": kpi.name,
        "label": kpi.label,
        "sentence": kpi.sentence,
        "kind": kpi.kind,
        "division": kpi.division,
        "report": describe_report(kpi, saved.name if saved else ""),
        "since": f"Counted so since {format_day(adoption.adopted_on)}: {definition.describe()}." if adoption else "",
        "date": definition["date"].why,
        "known": bool(definition["window"].known_by),
        "rows": drill.table + ("_open" if drill.is_balance else ""),
        "key": drill.keys[measure["distinct"]] if "distinct" in measure else "",
        "parts": [
            {"id": drill.parts[operand], "label": kpi.label if name == kpi.name else _humanize(name)}
            for operand, name in zip(operands(measure), sums, strict=False)
        ],
    }


def describe_report(kpi: Kpi, name: str = "") -> str:
    """Return the ServiceTitan report that shows a KPI: its name, where it is, and by which date it must be filtered."""
    basis = f", Filter by {label}" if (label := kpi["date"][0].basis) else ""
    return f"{name or kpi.report.name} ({kpi.report.where}{basis})"


def split_figures(book: Book) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures by place and period: what a page has at once, and the earlier weeks."""
    at_once = _list_at_once(book)
    recent: dict[str, Any] = {}
    earlier: dict[str, Any] = {}
    for place, periods in book.figures.items():
        for period, figures in periods.items():
            part = recent if period in at_once else earlier
            part.setdefault(place, {})[period] = {kpi: _shorten(figure) for kpi, figure in figures.items()}
    return recent, earlier


def _list_at_once(book: Book) -> set[str]:
    """The periods that a page has at once: the newest weeks, the same weeks a year ago, and all that are no weeks."""
    weeks = [period for period in book.periods.values() if period.kind == WEEK]
    shown = weeks[: WEEKS + weeks[0].is_running]
    found = {period.id for period in shown} | {period.before for period in shown}
    return found | {period.id for period in book.periods.values() if period.kind != WEEK}


def _shorten(figure: Figure) -> list[Any]:
    """The fields of a figure, without those at its end that are empty."""
    found = list(vars(figure).values())
    while found and found[-1] in ("", None):
        found.pop()
    return found


def _find_days(definition: Definition, period: Period) -> tuple[date, date]:
    """The days on which the rows of a period lie; those of a balance are found by the period's last day."""
    first, last, _ = read_days(definition["window"], definition["shift"], period.first, period.last)
    return (period.first, last) if first == date.min else (first, last)


def _humanize(name: str) -> str:
    """A column as people call it: `invoice_number` is "Invoice #"."""
    words = name.replace("_", " ")
    for ending in (" id", " number"):
        words = f"{words.removesuffix(ending)} #" if words.endswith(ending) else words
    return words[0].upper() + words[1:]


# --- numbers of ServiceTitan ------------------------------------------------------------------------------------------


def describe_number(one: Checked, explained: Mapping[str, str]) -> dict[str, Any]:
    """Return a number that ServiceTitan showed, beside ours, for a page."""
    seen, kind = one.observation, one.observation.entry.kind
    how = _CHOICE.sub("", explained.get(seen.id, ""))
    return {
        "kpi": seen.kpi,
        "place": name_place("unit", seen.unit),
        "first": seen.first_day.isoformat(),
        "last": seen.last_day.isoformat(),
        "title": seen.title,
        "shown": seen.shown,
        "ours": format_number(one.ours, kind),
        "outcome": one.outcome,
        "why": one.why or seen.note,
        "how": how[:1].upper() + how[1:],
        "source": f"{seen.report or seen.source}, read {format_day(seen.read_on)} by {seen.read_by}",
    }


def _list_jobs(
    target: warehouse.Warehouse,
    checked: Sequence[Checked],
    explained: Mapping[str, str],
    definitions: Mapping[str, Definition],
    config: settings.Settings,
    *,
    is_masked: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Return, by the ids of numbers that one change of the definition gives, the jobs that make the difference: of what
    does not match first.
    """
    found: dict[str, Any] = {}
    for one in sorted(checked, key=lambda one: (one.outcome != UNMATCHED, -one.observation.last_day.toordinal())):
        seen = one.observation
        choice = _CHOICE.search(explained.get(seen.id, ""))
        if one.outcome == MATCHED or not choice or len(found) == MOST_NUMBERS:
            continue
        chosen = definitions[seen.kpi]
        other = Definition(chosen.kpi, {**chosen.options, choice[1]: chosen.kpi.dimension(choice[1]).option(choice[2])})
        if other.rows == chosen.rows:  # they count the same jobs, differently
            continue
        jobs = target.query(
            differing_jobs_sql(chosen, other, name_facts(definitions)[seen.kpi]),
            unit=seen.unit,
            first=seen.first_day,
            last=seen.last_day,
            time_zone=config.time_zone,
            **asdict(increment.Bounds()),
        )
        if is_masked:
            jobs["customer"] = jobs["customer"].map(mask_name)
        jobs = jobs.astype(object).where(jobs.notna(), None).assign(id=jobs["job_id"].astype(str))
        found[seen.id] = jobs.drop(columns="job_id").to_dict("records")
    return found


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    manifest: dict[str, Any]
    count: int


def _first_row_day(book: Book) -> date:
    newest = book.as_of - timedelta(days=book.as_of.weekday())
    return max(newest - timedelta(weeks=ROW_WEEKS), min(period.first for period in book.periods.values()))


def _write_rows(
    target: warehouse.Warehouse,
    folder: Path,
    book: Book,
    definitions: Mapping[str, Definition],
    *,
    is_masked: bool,
) -> _Rows:
    first_day = _first_row_day(book)
    # What is open on a day is a list of its own for every day, and most of all rows: the earlier weeks have none.
    at_once = _list_at_once(book)
    days = sorted({book.periods[period].last for period in at_once if period and period in book.periods})
    values = {"first_day": first_day, "days": json.dumps([{"last_day": str(day)} for day in days])}
    drills = {(drill.table, drill.is_balance): drill for drill in list_drills(definitions).values()}
    manifest, count = {}, 0
    for drill in drills.values():
        found = target.query(drill.sql, **values)
        name = drill.table + ("_open" if drill.is_balance else "")
        kinds = _list_kinds(drill, definitions)
        chunks = []
        for chunk, rows in _pack_rows(found, drill, book, is_masked):
            chunks.append(chunk)
            packed = gzip.compress(orjson.dumps(rows), 6, mtime=0)
            _write_script(folder / f"{name}.{chunk}.js", f"{name}.{chunk}", base64.b64encode(packed).decode())
        manifest[name] = {
            "chunks": chunks,
            "balance": drill.is_balance,
            "named": [{"id": column, "label": _humanize(column)} for column in drill.named],
            "kinds": kinds,
        }
        count += len(found)
    return _Rows(manifest, count)


def _list_kinds(drill: Drill, definitions: Mapping[str, Definition]) -> dict[str, str]:
    """How the parts of a row are written: money, or a count; what is no amount is a flag or a number of something."""
    amounts = {name for definition in definitions.values() for name in definition.kpi.terms if name[:3] != "is_"}
    return {
        column: "money" if all(term in amounts for _, term in split_operand(operand)) else "count"
        for operand, column in drill.parts.items()
    }


def _pack_rows(found: pd.DataFrame, drill: Drill, book: Book, is_masked: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of each month, or of each day that a balance is of, with its name, as lists by column: days since
    1970, units as their place in the book, amounts as whole numbers of their last digit.
    """
    day = found["as_of_day" if drill.is_balance else "day"].astype(str)
    chunk = day if drill.is_balance else day.str.slice(0, 7)
    found = found.assign(chunk=chunk.astype(object)).sort_values("chunk", kind="stable", ignore_index=True)
    customers = found["customer"].map(mask_name) if is_masked else found["customer"]
    columns: dict[str, list[Any]] = {
        "day": _count_days(found["day"]),
        "unit": book.units.index.get_indexer(pd.Index(found["unit"])).tolist(),
        "id": _to_texts(found["job_id"].astype("Int64").astype("string")),
        "customer": _to_texts(customers),
        **({"known": _count_days(found["known"])} if drill.known else {}),
    }
    columns |= {name: _to_texts(found[name]) for name in ("job", "type", "status", *drill.named, *drill.keys.values())}
    scales = {}
    for name in drill.parts.values():
        columns[name], scales[name] = _to_whole(found[name])
    for month, rows in found.groupby("chunk").indices.items():
        first, end = int(rows[0]), int(rows[-1]) + 1  # they are sorted
        yield str(month), {name: values[first:end] for name, values in columns.items()} | {"scales": scales}


def _count_days(days: pd.Series) -> list[int]:
    counts: list[int] = (pd.to_datetime(days) - _EPOCH).dt.days.tolist()
    return counts


def _to_texts(column: pd.Series) -> list[str | None]:
    texts: list[str | None] = column.astype(object).where(column.notna(), None).tolist()
    return texts


def _to_whole(column: pd.Series) -> tuple[list[int], int]:
    """Return exact numbers as whole ones, and how many decimals these have: none, or two at least."""
    exact = [value if isinstance(value, Decimal) else Decimal(int(value)) for value in column.fillna(0).tolist()]
    digits = max((-int(value.normalize().as_tuple().exponent) for value in exact), default=0)
    scale = max(digits, 2) if digits > 0 else 0
    return [int(value.scaleb(scale)) for value in exact], scale


# --- the home page ----------------------------------------------------------------------------------------------------


def describe_home(
    book: Book,
    definitions: Mapping[str, Definition],
    own: company.Company,
    checked: Sequence[Checked],
    numbers: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the home page shows of the newest full week, ready to be shown."""
    differing = [
        {key: text for key, text in number.items() if key != "jobs"} | {"period": _find_period(book, one)}
        for one, number in zip(checked, numbers, strict=True)
        if one.outcome == UNMATCHED
    ]
    home: dict[str, Any] = {"numbers": count_outcomes(checked), "differing": differing, "week": None}
    if not book.weeks:
        return home
    week = book.weeks[0]
    units = book.units.reset_index()
    kpis = [definition.kpi for definition in definitions.values()]
    marks = {
        (one.observation.kpi, one.observation.unit): one.outcome
        for one in checked
        if (one.observation.first_day, one.observation.last_day) == (week.first, week.last)
        and one.outcome in (MATCHED, UNMATCHED)
    }
    home["week"] = {"id": week.id, "label": week.label}
    home["cards"] = [
        {
            "kpi": kpi.name,
            "label": kpi.label,
            "sentence": kpi.sentence,
            "report": describe_report(kpi, own.reports[kpi.name].name if kpi.name in own.reports else ""),
            "since": _describe_since(definitions[kpi.name], own),
            **asdict(book.figures[COMPANY][week.id][kpi.name]),
            "mark": _describe_mark([outcome for (name, _), outcome in marks.items() if name == kpi.name]),
        }
        for kpi in select_kpis(COMPANY, units, definitions)
    ]
    home["tables"] = [
        _describe_units(book, week, division, [kpi for kpi in kpis if kpi.division in divisions], marks)
        for division, divisions in _list_tables(book)
    ]
    return home


def _list_tables(book: Book) -> list[tuple[str, tuple[str, ...]]]:
    """Which tables of units there are, and of which divisions' KPIs: one, where all units sell and produce."""
    if book.units["division"].eq(BOTH).all():
        return [("Units", ("Sales", "Production"))]
    return [("Sales units", ("Sales",)), ("Production units", ("Production",))]


def _describe_units(
    book: Book, week: Period, title: str, kpis: Sequence[Kpi], marks: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    divisions = {division for kpi in kpis for division in kpi.divisions}
    regions: dict[str, list[dict[str, Any]]] = {}
    for unit, row in book.units.iterrows():
        figures = book.figures[name_place("unit", str(unit))][week.id]
        is_idle = row["division"] == BOTH and all(not figures[k.name].number for k in kpis if k.name in figures)
        if row["division"] not in divisions or is_idle:
            continue
        regions.setdefault(row["region"], []).append(
            {
                "place": name_place("unit", str(unit)),
                "name": unit,
                "cells": [
                    {"kpi": kpi.name, "mark": marks.get((kpi.name, str(unit)), "")} | asdict(figures[kpi.name])
                    for kpi in kpis
                ],
            }
        )
    totals = {
        region: [
            {"kpi": kpi.name, "mark": ""} | asdict(book.figures[name_place("region", region)][week.id][kpi.name])
            for kpi in kpis
        ]
        for region in regions
    }
    return {
        "title": title,
        "kpis": [{"label": kpi.label, "sentence": kpi.sentence} for kpi in kpis],
        "regions": [
            {"place": name_place("region", region), "name": region, "cells": totals[region], "units": units}
            for region, units in regions.items()
        ],
    }


def _describe_since(definition: Definition, own: company.Company) -> str:
    adoption = own.find_adoption(definition.kpi.name)
    if adoption is None:
        return "The standard definition, for the whole history."
    return f"Your own definition since {format_day(adoption.adopted_on)}: {definition.describe()}."


def _describe_mark(outcomes: Sequence[str]) -> dict[str, str]:
    """Say whether the numbers that ServiceTitan showed for the week match, for a KPI of the company."""
    wrong = sum(outcome == UNMATCHED for outcome in outcomes)
    if not outcomes:
        return {"outcome": "", "text": "not compared this week"}
    if wrong:
        return {"outcome": UNMATCHED, "text": f"{wrong} of {len(outcomes)} units differ from ServiceTitan"}
    return {"outcome": MATCHED, "text": f"matches ServiceTitan in {len(outcomes)} unit{'s' * (len(outcomes) > 1)}"}


def _find_period(book: Book, one: Checked) -> str:
    days = (one.observation.first_day, one.observation.last_day)
    return next((period.id for period in book.periods.values() if (period.first, period.last) == days), "")
