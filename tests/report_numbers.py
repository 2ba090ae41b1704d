"""The numbers of a night's reports (04 to 08), read as they are drawn, and the same counted here: by plain SQL over the
warehouse, which no page is made with, and in Python.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from statistics import median
from typing import Any

import duckdb
import pandas as pd
import yaml
from page_numbers import Read, spell
from playwright.sync_api import Page

from stkpi import settings
from stkpi.formatting import format_change, format_number, format_rounded
from stkpi.kpis.catalog import Kpi, read_catalog

Row = dict[str, str]
Db = duckdb.DuckDBPyConnection
LABELS = {kpi.label: kpi for kpi in read_catalog().values()}


# --- what a page shows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table below a heading: the columns that are not empty, and its rows, each by the headings of its cells."""

    heads: list[str]
    rows: list[Row]


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: its name, the amount beside it, and where it begins and ends."""

    name: str
    amount: str
    start: float
    end: float


def read_tables(page: Page) -> dict[str, list[Table]]:
    """The tables of a report by the heading that they stand under, as they are drawn."""
    found = page.evaluate(
        """() => { let heading = ""; const found = [];
        for (const one of document.querySelectorAll("h1, h2, table.figures"))
          if (one.tagName !== "TABLE") found.push([heading = one.textContent.trim(), null]);
          else found.push([heading, [...one.rows].map((row) => [...row.cells].map((cell) => cell.textContent))]);
        return found; }"""
    )
    tables: dict[str, list[Table]] = {}
    for heading, cells in found:
        of_heading = tables.setdefault(heading, [])
        if cells:
            heads, *rows = cells
            of_heading.append(Table(heads, [dict(zip(heads, row, strict=True)) for row in rows]))
    return tables


def read_bars(page: Page) -> dict[str, list[Bar]]:
    """The bars of a report's charts by the title of each, from the pictures themselves; of lines there are none."""
    found = page.evaluate(
        """() => [...document.querySelectorAll(".charts figure")].map((figure) => {
        const source = atob(figure.querySelector("img").src.split("base64,")[1]);
        const text = new TextDecoder().decode(Uint8Array.from(source, (sign) => sign.charCodeAt(0)));
        const picture = new DOMParser().parseFromString(text, "image/svg+xml");
        const words = (node) => [...node.querySelectorAll("text")].map((text) => text.textContent).join(" ");
        const ticks = [...picture.querySelectorAll("[id^=ytick]")].map((tick) =>
          [Boolean(tick.closest("[id=axes_2]")), words(tick)]);
        const paths = [...picture.querySelectorAll("[id^=patch] path[clip-path]")].map((path) =>
          path.getAttribute("d").match(/-?[\\d.]+/g).map(Number));
        return [figure.querySelector("figcaption").textContent, ticks, paths]; })"""
    )
    charts = {}
    for title, ticks, paths in found:
        names = [text for is_right, text in ticks if not is_right]
        amounts = [text for is_right, text in ticks if is_right]
        ends = [(path[0], path[2]) for path in paths] if amounts else []
        names = names if amounts else []
        charts[title] = [Bar(*one, *end) for *one, end in zip(names, amounts, ends, strict=True)]
    return charts


def read_lines(page: Page, heading: str) -> list[str]:
    """The lines of the lists under a heading."""
    found: list[str] = page.evaluate(
        """(heading) => { let here = ""; const found = [];
        for (const one of document.querySelectorAll("h1, h2, li")) {
          if (one.tagName !== "LI") here = one.textContent.trim();
          else if (here === heading) found.push(one.textContent.trim()); }
        return found; }""",
        heading,
    )
    return found


def read_strong(page: Page) -> list[str]:
    """The sentences that stand out."""
    return page.locator("p > strong").all_inner_texts()


def connect(file: Any) -> Db:
    """Open the warehouse with DuckDB alone, with what GoogleSQL calls otherwise."""
    found = duckdb.connect(str(file), read_only=True)
    found.execute("SET TimeZone = 'UTC'")
    found.execute("CREATE TEMP MACRO REGEXP_CONTAINS(text, pattern) AS regexp_matches(text, pattern)")
    return found


def ask(db: Db, sql: str, *values: Any) -> Any:
    """The one value of a query."""
    return db.execute(sql, list(values)).fetchall()[0][0]


def local(column: str, zone: str = "") -> str:
    """The day of an instant in a zone, by default the tenant's."""
    zone = zone or settings.load().time_zone
    return f"CAST({column} AT TIME ZONE '{zone}' AS DATE)"


def to_amount(text: str) -> Decimal:
    """A number as it is shown, as a number: $1,234.50, -3, 12.3%, +5, ±0."""
    value = Decimal(re.sub(r"[$,%±+]| pt", "", text))
    return value / 100 if "%" in text or "pt" in text else value


# --- a number of a unit and days by any definition --------------------------------------------------------------------


def move(day: date, step: str) -> date:
    """A day some days (-364d) or years (-1y) on."""
    if not step:
        return day
    count, kind = int(step[:-1]), step[-1]
    return (pd.Timestamp(day) + (pd.DateOffset(years=count) if kind == "y" else pd.Timedelta(days=count))).date()


class Way:
    """A KPI counted with some choices instead of the default ones, for a unit and days; by SQL over its candidates."""

    def __init__(self, kpi: Kpi, unit: str, first: date, last: date, choices: Mapping[str, str] | None = None) -> None:
        self.kpi, self.unit = kpi, unit
        self.options = {one.name: one.options[0] for one in kpi.dimensions}
        for name, id in (choices or {}).items():
            self.options[name] = next(option for option in kpi[name] if option.id == id)
        shift = self.options["shift"].says
        self.first, self.last = move(first, shift), move(last, shift)

    def conditions(self) -> dict[str, str]:
        """What a row must meet, by the steps of the funnel: its days, its unit, and each condition."""
        column, zone = self.options["date"].says, self.options["zone"].says
        day = column if column.endswith("_date") else local(column, "" if zone == "@time_zone" else zone)
        low, high = (self.resolve(text) for text in self.options["window"].says)
        within = f"{day} <= DATE '{high}'" + (f" AND {day} >= DATE '{low}'" if low else "")
        if known := self.options["window"].known_by:
            within += f" AND {known} <= DATE '{self.last}'"
        whose, name = self.options["attribution"].says, self.options["rollup"].says
        unit = self.unit.replace("'", "''")
        found = {"days": within}
        found["unit"] = f"{whose}_{name} = '{unit}' AND {whose}_division IN ('{self.kpi.division}', 'Both')"
        skipped = ("measure", "date", "zone", "window", "shift", "attribution", "rollup")
        return found | {n: o.says for n, o in self.options.items() if n not in skipped and o.says != "TRUE"}

    def resolve(self, text: str) -> date | None:
        """A day of a window."""
        if text == "ever":
            return None
        anchor = re.match("first|last|monday", text)[0]  # type: ignore[index]
        monday = self.last - timedelta(days=self.last.weekday())
        return move({"first": self.first, "last": self.last, "monday": monday}[anchor], text.removeprefix(anchor))

    def select(self, what: str, conditions: Iterable[str], more: str = "") -> str:
        """A query over the candidates."""
        terms = [f"{sql} AS {name}" for name, sql in self.kpi.terms.items() if sql != name]
        rows = f"SELECT {', '.join(['*', '1 AS rows_', *terms])} FROM st_ref_v2.{self.kpi.candidates}"
        wheres = " AND ".join(f"({each})" for each in conditions)
        return f"SELECT {what} FROM ({rows}) WHERE {wheres} {more}"

    def count(self, db: Db) -> Any:
        """The number; None is a rate without a denominator."""
        says, wheres = self.options["measure"].says, self.conditions().values()

        def total(operand: str) -> str:
            parts = re.sub(r"\b(is_\w+)", r"CAST(\1 AS INT)", re.sub(r"\brows\b", "rows_", operand))
            return f"COALESCE(SUM({parts}), 0)"

        if "distinct" in says:
            return ask(db, self.select(f"COUNT(DISTINCT {says['distinct']})", wheres))
        if "count" in says:
            return ask(db, self.select("COUNT(*)", wheres))
        if "sum" in says:
            return Decimal(ask(db, self.select(total(says["sum"]), wheres)))
        if "ratio" in says:
            [(part, whole)] = db.execute(self.select(", ".join(map(total, says["ratio"])), wheres)).fetchall()
            return Decimal(part) / Decimal(whole) if whole else None
        per = self.select(f"{total(says['net'])} AS net", wheres, f"GROUP BY {says['per']}")
        return Decimal(ask(db, f"SELECT COALESCE(SUM(net), 0) FROM ({per}) WHERE net >= {says['least']}"))

    def show(self, db: Db) -> str:
        """The number as a page shows it."""
        return spell_exact(self.count(db), self.kpi)


def spell_exact(value: Any, kpi: Kpi) -> str:
    return format_number(value, kpi.kind)


def subtract(shown: str, ours: str, kpi: Kpi, slack: Decimal = Decimal(0)) -> set[str]:
    """How a difference may be written, which is of the numbers before they were rounded."""
    off = to_amount(shown) - to_amount(ours)
    return {format_change(off + way * slack, kpi.kind) for way in (-1, 0, 1)}


# --- 05 and 06: every other way to count ------------------------------------------------------------------------------


def check_ways(page: Page, db: Db, kpi: Kpi, unit: str, first: date, last: date) -> int:
    """Hold a page of diagnostics against the warehouse: its headline, the funnel and its chart, the numbers that were
    seen, every way to count, and the days. Return how many numbers there were.
    """
    chosen = Way(kpi, unit, first, last)
    ours = chosen.show(db)
    span = f"{first:%b} {first.day} to {last:%b} {last.day}, {last.year}"
    [headline] = read_strong(page)
    assert headline.startswith(f"{kpi.label} of {unit}, {span}: {ours}. "), headline
    tables = read_tables(page)
    title = next(iter(tables))
    [funnel] = tables[title]
    count = check_funnel(funnel, read_bars(page)["From every row of these days to those that count"], db, chosen)
    [ways] = tables["Every other way to count"]
    options = [(dimension.name, option.id) for dimension in kpi.dimensions for option in dimension.options[1:]]
    assert [row["definition"] for row in ways.rows] == ["as expected", *(f"{name}={id}" for name, id in options)]
    for row, choice in zip(ways.rows[1:], options, strict=True):
        shown = Way(kpi, unit, first, last, dict([choice])).show(db)
        assert row["number"] == shown, row
        assert row["difference"] in subtract(shown, ours, kpi), row
    assert (ways.rows[0]["number"], ways.rows[0]["difference"]) == (ours, "")
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    [by_day] = tables["Day by day, and by UTC"]
    assert [list(row.values()) for row in by_day.rows] == [
        [f"{day:%a %b} {day.day}", *(Way(kpi, unit, day, day, zone).show(db) for zone in ({}, {"zone": "utc"}))]
        for day in days
    ]
    seen = tables["The numbers that people saw"]
    for row in seen[0].rows if seen else ():
        check_explanation(row["seen"], row["how it comes about"], chosen, db)
    [link] = read_lines(page, "The rows behind the number")
    rows = ask(db, chosen.select("COUNT(*)", chosen.conditions().values()))
    assert link == f"{kpi.fact}.csv: {rows:,} row{'' if rows == 1 else 's'}"
    return count + 2 * len(ways.rows) + 2 * len(days) + 1


def check_funnel(funnel: Table, bars: Sequence[Bar], db: Db, chosen: Way) -> int:
    """Hold the steps from the rows of the days to those that count, and their bars, against the candidates."""
    wheres, kept = chosen.conditions(), []
    entity = [wheres["entity"]] if "entity" in wheres else []
    for n, row in enumerate(funnel.rows):
        name = row["step"].replace(" ", "_")
        kept += [wheres["days"], *entity] if n == 0 else [wheres[name]]
        assert row["rows left"] == f"{ask(db, chosen.select('COUNT(*)', kept)):,}", row
    assert len(funnel.rows) == len(wheres) - len(entity)
    assert funnel.rows[0]["what counts"].endswith(f", from {chosen.first} to {chosen.last}")
    assert [(bar.name, bar.amount) for bar in bars] == [(row["step"], row["rows left"]) for row in funnel.rows]
    check_lengths(bars)
    return 2 * len(bars)


def check_lengths(bars: Sequence[Bar]) -> None:
    """Hold the lengths of bars that begin at zero against the amounts beside them."""
    most = max(bars, key=lambda bar: abs(to_amount(bar.amount)))
    scale = (most.end - most.start) / float(to_amount(most.amount)) if to_amount(most.amount) else 0
    for bar in bars:
        assert abs(bar.end - bar.start - scale * float(to_amount(bar.amount))) < 1, bar


def check_charts(page: Page, read: Read, monday: date) -> int:
    """Hold the charts of a night's KPIs against the tables: the company's number in the title of each line, and every
    unit's bar, the number beside it, and the one in the title. Return how many numbers there were.
    """
    count, sunday = 0, monday + timedelta(days=6)
    for title, bars in read_bars(page).items():
        label, _, words = title.partition(": ")
        kpi = LABELS[label]
        if not bars:
            assert words.split(", ")[0] == spell(read("company", monday, sunday, kpi.name), kpi), title
            count += 1
            continue
        numbers = {bar.name: read(f"unit:{bar.name}", monday, sunday, kpi.name) for bar in bars}
        assert {bar.name: bar.amount for bar in bars} == {name: spell(each, kpi) for name, each in numbers.items()}
        known = [bar for bar in bars if bar.amount != "—"]
        check_lengths(known)
        if "provisional" not in words:
            choose = max if kpi.good > 0 else min
            best = choose(each for each in numbers.values() if each is not None)
            assert words.endswith(f" {spell(best, kpi)}") or words.startswith(f"{spell(best, kpi)} in "), title
        count += 2 * len(bars)
    return count


def check_explanation(seen: str, why: str, chosen: Way, db: Db) -> None:
    """Hold how a number comes about against the ways that are named: each gives it, and the changes add up."""
    kpi, ours = chosen.kpi, chosen.show(db)
    if "we have it too" in why:
        assert seen == ours, why
        return
    assert why.startswith(f"{seen} "), why
    changes = re.findall(r"\(([+-±]\S*)\)", why)
    assert changes, why
    assert sum(map(to_amount, changes)) == to_amount(seen) - to_amount(ours), why
    named = re.findall(r"\b(\w+)=(\w+)", why)
    assert bool(named) == ("takes several changes" not in why), why
    for choice in named:
        way = Way(kpi, chosen.unit, chosen.first, chosen.last, dict([choice]))
        assert way.show(db) == seen, (choice, why)


# --- 08: the numbers that people and the Reporting API saw ------------------------------------------------------------

TITLE = re.compile(
    r"(?P<label>.+) of (?P<unit>.+), (?P<first>\w+ \d+(?:, \d{4})?) to (?P<last>\w+ \d+, \d{4})(?:, by (?P<basis>.+))?"
)


def read_title(title: str) -> tuple[Way, str]:
    """What a number is about: its KPI, unit and days, counted by the date that the title names."""
    found = TITLE.fullmatch(title)
    assert found, title
    kpi, last = LABELS[found["label"]], datetime.strptime(found["last"], "%b %d, %Y").date()  # noqa: DTZ007
    first = found["first"] if "," in found["first"] else f"{found['first']}, {last.year}"
    choices = {}
    if found["basis"]:
        choices["date"] = next(option.id for option in kpi["date"] if option.basis == found["basis"])
    way = Way(kpi, found["unit"], datetime.strptime(first, "%b %d, %Y").date(), last, choices)  # noqa: DTZ007
    return way, found["basis"] or ""


def check_definitions(page: Page, db: Db, ledger: Sequence[Mapping[str, str]]) -> int:
    """Hold the page of the definitions against the warehouse: each number that was seen beside ours, how many match,
    how others come about, and how many numbers each KPI has. Return how many numbers were held against the rows.

    ledger: the lines of observed.csv
    """
    tables = read_tables(page)
    own, api = (
        [row for table in tables[heading] for row in table.rows]
        for heading in ("Do the numbers that people saw match ours?", "The numbers that the Reporting API gave")
    )
    rows = [*own, *api]
    outcomes: Counter[tuple[str, bool]] = Counter()
    numbers: Counter[str] = Counter()
    for row in rows:
        way, basis = read_title(row["number"])
        shown = way.show(db)
        assert row["ours"] == shown, row
        outcomes[row["outcome"], bool(basis)] += 1
        numbers[way.kpi.label] += row["outcome"] in ("matched", "unmatched")
        assert (row["seen"] == shown) == (row["outcome"] == "matched"), row
        if row["why"].startswith("we have "):
            assert row["why"].startswith(f"we have {shown}, "), row
            assert row["why"].split(", ", 1)[1].split(" since ")[0] in subtract(shown, row["seen"], way.kpi), row
    check_sources(own, api, db, ledger, tables["Night by night"])
    check_match(page, outcomes)
    check_notes(page, rows)
    verdicts = [row for table in tables["Which definition gives the numbers?"] for row in table.rows]
    assert {row["KPI"]: row["numbers"] for row in verdicts} == {kpi: str(n) for kpi, n in numbers.items() if n}
    explained = tables["Why somebody saw another number"]
    strangers = [(row["number"], row["seen"]) for row in rows if row["outcome"] in ("unmatched", "explained")]
    assert [(row["number"], row["seen"]) for table in explained for row in table.rows] == strangers
    for row in explained[0].rows if explained else ():
        check_explanation(row["seen"], row["how it comes about"], read_title(row["number"])[0], db)
    return 2 * len(rows)


def check_sources(
    own: Sequence[Row], api: Sequence[Row], db: Db, ledger: Sequence[Mapping[str, str]], history: Sequence[Table]
) -> None:
    """Hold what was seen, where and when against the ledger and what the night kept, and the last column of the nights
    against the outcomes.
    """
    lines = {
        (
            *(one["kpi"], one["unit"], one["first_day"], one["last_day"], to_amount(one["value"]).normalize()),
            *(f"{one['source']}, {one['report']}", f"{one['read_on']} by {one['read_by']}"),
        ): one
        for one in ledger
    }
    seen = {
        (
            *(way.kpi.name, way.unit, str(way.first), str(way.last), to_amount(row["seen"]).normalize()),
            *(row["source"], row["read"]),
        ): row
        for row in own
        for way, _ in [read_title(row["number"])]
    }
    assert seen.keys() == lines.keys()
    assert all(row["why"] in (lines[key]["note"], "") or row["why"].startswith("we have ") for key, row in seen.items())
    kept = db.execute(
        "SELECT kpi, unit, first_day, last_day, value, CONCAT(read_on, ' by ', read_by) FROM st_logs_v2.observations"
        " WHERE source = 'api report' QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY checked_at DESC) = 1"
    ).fetchall()
    of_api = Counter((*place, spell_exact(value, read_catalog()[place[0]]), read) for *place, value, read in kept)
    ways = [(read_title(row["number"])[0], row) for row in api]
    assert of_api == Counter((w.kpi.name, w.unit, w.first, w.last, row["seen"], row["read"]) for w, row in ways)
    nights = {row["id"]: list(row.values())[1] for table in history for row in table.rows}
    assert {lines[key]["id"]: row["outcome"] for key, row in seen.items()}.items() <= nights.items()


def check_match(page: Page, outcomes: Counter[tuple[str, bool]]) -> None:
    """Hold the sentence on top, and that of the numbers by other dates, against the tables."""
    matched, known = outcomes["matched", False], outcomes["matched", False] + outcomes["unmatched", False]
    still_open = outcomes["open", False]
    more = f" ({still_open:,} cannot be compared yet)" if still_open else ""
    told = f"{matched:,} of {known:,} of your numbers match ServiceTitan{more}."
    unknown = "No number of ServiceTitan is known yet, so nobody can say whether these match."
    assert read_strong(page)[0] == (told if known else unknown)
    dated, all_dated = outcomes["matched", True], outcomes["matched", True] + outcomes["unmatched", True]
    lines = read_lines(page, "Do the numbers that people saw match ours?")
    told = [line for line in lines if line.startswith("By another date")]
    assert told == ([f"By another date than yours, {dated} of {all_dated} numbers match."] if all_dated else [])


def check_notes(page: Page, rows: Sequence[Row]) -> None:
    """Hold how many numbers of a report and its days were read this night against those in the table."""
    read: Counter[tuple[str, str]] = Counter()
    for line in read_lines(page, "Do the numbers that people saw match ours?"):
        if note := re.fullmatch(r"([\d,]+) numbers? of (.+) read, (.+)\.", line):
            read[note[2], note[3]] += int(note[1].replace(",", ""))
    listed: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row["source"].startswith("api report, "):
            span = re.search(r", (\w+ \d+(?:, \d{4})? to \w+ \d+, \d{4})", row["number"])[1]  # type: ignore[index]
            listed[row["source"].removeprefix("api report, ").rpartition(": ")[0], span] += 1
    assert read == listed


# --- 07: a file beside our rows ---------------------------------------------------------------------------------------


def check_comparison(page: Page, db: Db, kpi: Kpi, unit: str, first: date, last: date, theirs: pd.DataFrame) -> int:
    """Hold the page of a comparison against the file and the fact table: how many rows are on which side, the way from
    their number to ours with its chart, and every row that is shown. Return how many numbers there were.

    theirs: the rows of the file, with columns line, job, person and amount
    """
    lines = theirs.groupby("job")["line"].agg(set)
    notes = " ".join(page.locator("li").all_inner_texts())
    assert f" {len(theirs):,} rows are data, none is left out. " in notes
    assert f" It states its dates: {first} to {last}." in notes
    ours = db.execute(
        f"SELECT job_number AS job, customer_id AS person, {OURS[kpi.name]} AS amount, event_date AS day"
        f" FROM st_mart_v2.{kpi.fact} WHERE business_unit = ? AND event_date BETWEEN ? AND ?",
        [unit, first, last],
    ).df()
    ours["amount"] = ours["amount"].map(lambda value: Decimal(str(value)))
    # Of a job that we know the customer is known; of another there is the name only.
    known = dict(db.execute("SELECT job_number, customer_id FROM st_ref_v2.dim_jobs").fetchall())
    theirs = theirs.assign(
        person=[known.get(job, name) for job, name in zip(theirs["job"], theirs["person"], strict=True)]
    )
    adds = {"person": ("person", "first"), "amount": ("amount", "sum" if kpi.kind == "money" else "first")}
    ours = ours.groupby("job").agg(**adds, day=("day", "first"))
    theirs = theirs.groupby("job").agg(**adds)
    both = theirs.join(ours, how="inner", suffixes=("_there", "_here"))
    same = (both["amount_there"] - both["amount_here"]).map(abs) < Decimal("0.005")
    expected = {
        "identical": set(both.index[same]),
        "only there": set(theirs.index) - set(ours.index),
        "only here": set(ours.index) - set(theirs.index),
        "different amount": set(both.index[~same]),
    }
    tables = [table for found in read_tables(page).values() for table in found]
    sides, bridge, listed = tables
    assert {row[""]: row["rows"] for row in sides.rows} == {side: f"{len(jobs):,}" for side, jobs in expected.items()}
    number = {"there": total(theirs, kpi), "here": total(ours, kpi)}
    check_bridge(bridge, listed, kpi, len(theirs), len(ours), number)
    check_waterfall(read_bars(page), bridge, kpi)
    check_sentence(read_strong(page), bridge, number, kpi)
    shown = {side: {row["job number"] for row in listed.rows if row["side"] == side} for side in expected}
    assert all(
        jobs in (set(), expected[side]) if side == "identical" else jobs == expected[side]
        for side, jobs in shown.items()
    )
    for row in listed.rows:
        job = row["job number"]
        where = {int(text) for text in re.findall(r"\d+", row["line of the export"])}
        assert where <= lines.get(job, set()) and bool(where) == (job in theirs.index), row
        for column, text in row.items():
            if column.endswith((" there", " here")) and kpi.kind == "money":
                side = theirs if column.endswith(" there") else ours
                amount = side["amount"].get(job, Decimal(0))
                assert (not text and job not in side.index) or Decimal(text) == amount, row
        if job in ours.index and (day := next((row[head] for head in row if head.endswith(" date")), "")):
            assert day == str(pd.Timestamp(ours["day"][job]).date()), row
    return len(listed.rows) + len(bridge.rows) * 3 + len(sides.rows)


def check_sentence(sentences: Sequence[str], bridge: Table, number: Mapping[str, Any], kpi: Kpi) -> None:
    """Hold the sentence on top: both numbers, and of each step that it names its rows and its change."""
    start = re.escape(bridge.rows[0]["step"]) + r" has (?P<what>.+?), we have (?P<ours>\S+) \(.+?\): (?P<steps>.+)\."
    [sentence] = filter(None, (re.fullmatch(start, each) for each in sentences))
    assert sentence["ours"] == spell_exact(number["here"], kpi)
    assert spell_exact(number["there"], kpi) in sentence["what"].split()
    steps = {row["step"]: (row["rows"], row["change"]) for row in bridge.rows[1:-2]}
    named = re.findall(
        r"([\d,]+) [\w ]+? (only here|only there|different amount), (.+?) \(([+-±]\S*)\)(?:; |$)", sentence["steps"]
    )
    assert len(named) == min(3, len(steps))
    for rows, side, reason, change in named:
        assert steps[f"{side}: {reason}"] == (rows, change), sentence[0]


OURS = {"leads": "1", "dollars_produced": "produced"}


def total(rows: pd.DataFrame, kpi: Kpi) -> Any:
    return rows["amount"].sum() if kpi.kind == "money" else rows["person"].nunique()


def check_bridge(bridge: Table, listed: Table, kpi: Kpi, theirs: int, ours: int, number: Mapping[str, Any]) -> None:
    """Hold the way from their number to ours: each step has the rows that are listed for it, and leads to the next."""
    start, *steps, end, rest = bridge.rows
    assert (start["rows"], start["number"]) == (f"{theirs:,}", spell_exact(number["there"], kpi))
    assert (end["step"], end["rows"], end["number"]) == ("ours", f"{ours:,}", spell_exact(number["here"], kpi))
    assert (rest["step"], rest["rows"], rest["change"]) == ("unexplained", "0", "±0")
    reasons = Counter((row["side"], row["reason"]) for row in listed.rows if row["side"] != "identical")
    assert Counter({row["step"]: int(row["rows"].replace(",", "")) for row in steps if ":" in row["step"]}) == Counter(
        {f"{side}: {reason}": count for (side, reason), count in reasons.items()}
    )
    level = to_amount(start["number"])
    for row in steps:
        level += to_amount(row["change"])
        assert to_amount(row["number"]) == level, row
        if kpi.kind == "money":
            side, _, reason = row["step"].partition(": ")
            of_step = [one for one in listed.rows if (one["side"], one["reason"]) == (side, reason)]
            [there, here] = [head for head in listed.heads if head.endswith((" there", " here"))]
            change = sum((Decimal(one[here] or 0) - Decimal(one[there] or 0) for one in of_step), Decimal(0))
            assert to_amount(row["change"]) == change, row
    assert level == to_amount(end["number"])


def check_waterfall(charts: Mapping[str, list[Bar]], bridge: Table, kpi: Kpi) -> None:
    """Hold the bars of the way, and what stands beside them, against its table."""
    [(title, bars)] = charts.items()
    start, *steps, end, _ = bridge.rows
    steps = [row for row in steps if row["change"] != "±0"]
    assert title.startswith(f"{start['number']} in {start['step']}, {end['number']} here")
    told = [start["number"], *(row["change"] for row in steps), end["number"]]
    assert [bar.amount for bar in bars] == told
    squeeze = re.compile(r"[\s-]+")
    names = [start["step"], *(row["step"] for row in steps), "ours"]
    for bar, name in zip(bars, names, strict=True):
        assert squeeze.sub("", bar.name) == squeeze.sub("", name), bar
    if steps:
        largest = max(steps, key=lambda row: abs(to_amount(row["change"])))
        assert title.endswith(f"; the largest step is {largest['step']}")
    first, *between, last = bars
    scale = (first.end - first.start) / float(to_amount(first.amount))
    level = first.end
    for bar in between:
        assert abs(bar.start - level) < 1, bar
        assert abs(bar.end - bar.start - scale * float(to_amount(bar.amount))) < 1, bar
        level = bar.end
    assert abs(last.end - level) < 1
    assert abs(last.end - last.start - scale * float(to_amount(last.amount))) < 1


# --- 04: can the numbers be trusted? ----------------------------------------------------------------------------------

# What dates the rows that a suite looks at; instants are days in the tenant's zone, and a short list has no date.
DATED = {
    "raw_payroll": "date",
    "dim_jobs": "created_on",
    "dim_invoices": "invoice_date",
    "dim_estimates": "sold_date",
    "dim_payment_applications": "paid_date",
    "kpi_weekly_by_bu": "week_start",
    "regional_kpis": "week_start",
    "kpi_daily_by_bu": "event_date",
}
GROWING = (
    *("appointments", "credit_memos", "customers", "estimates", "invoices", "jobs", "locations", "payments", "payroll"),
    *("payroll_adjustments", "purchase_orders", "returns", "vendor_bills"),
)
WEEKS = 12
NAMES = {"raw_": "st_raw_v2", "dim_": "st_ref_v2"}
POINTERS = {  # which ids must lead where: their table, column, the condition of a row, its day, and their target
    "invoices to jobs": ("st_raw_v2.raw_invoices", "jobId", "jobId != 0", "createdOn", "raw_jobs"),
    "payments to invoices": (
        *("st_ref_v2.dim_payment_applications", "invoice_id", "payment_is_active", "paid_date", "raw_invoices"),
    ),
    "payroll to jobs": ("st_raw_v2.raw_payroll", "jobId", "jobId != 0", "date", "raw_jobs"),
    "estimates to jobs": ("st_raw_v2.raw_estimates", "jobId", "jobId != 0", "createdOn", "raw_jobs"),
    "appointments to jobs": ("st_raw_v2.raw_appointments", "jobId", "jobId != 0", "createdOn", "raw_jobs"),
    "jobs to customers": ("st_raw_v2.raw_jobs", "customerId", "customerId != 0", "createdOn", "raw_customers"),
    "locations to customers": (
        *("st_raw_v2.raw_locations", "customerId", "customerId != 0", "createdOn", "raw_customers"),
    ),
}
AHEAD = {
    "jobs created": ("raw_jobs", "createdOn > _ingested_at"),
    "jobs completed": ("raw_jobs", "completedOn > _ingested_at"),
    "estimates sold": ("raw_estimates", "soldOn > _ingested_at"),
    "invoices dated": ("raw_invoices", "invoiceDate > CAST(_ingested_at AS DATE) + 31"),
    "payments dated": ("raw_payments", "date > CAST(_ingested_at AS DATE) + 31"),
    "payroll worked": ("raw_payroll", "date > CAST(_ingested_at AS DATE) + 31"),
}


@dataclass(frozen=True)
class Check:
    """A check as the page shows it."""

    color: str
    title: str
    found: str


def read_checks(page: Page) -> tuple[str, list[Check]]:
    """The line above the checks, and all of them, those that are folded away included."""
    found = page.evaluate(
        """() => [...document.querySelectorAll("ul.checks li")].map((li) => { const light = li.firstElementChild;
        const lines = li.innerHTML.split("<br>").map((html) => { const e = document.createElement("p");
          e.innerHTML = html; e.querySelector(".light")?.remove(); e.querySelector("strong + small")?.remove();
          return e.textContent.trim(); });
        return [light.textContent.trim(), lines[0], lines[1] ?? ""]; })"""
    )
    line = page.locator("p:has(> .light)").first.text_content() or ""
    return " ".join(line.split()), [Check(*one) for one in found if one[1] != "All checks passed."]


def check_validation(page: Page, db: Db, read: Read, as_of: date) -> int:
    """Hold the page of the checks against the warehouse: how many are of which color, what each of them counted, the
    records by month, and how unusual the newest week is. Return how many numbers there were.
    """
    line, checks = read_checks(page)
    colors = Counter(check.color for check in checks)
    assert line == " ".join(f"{colors[color]} {color}" for color in ("red", "yellow", "green"))
    assert page.locator("summary").all_inner_texts() == [f"The {colors['green']} green checks"]
    monday = as_of - timedelta(days=(as_of.weekday() + 1) % 7 + 6)
    window = Window(db, read, monday - timedelta(weeks=WEEKS), as_of)
    untold = [check.title for check in checks if not check_found(window, check)]
    assert not untold, untold
    tables = read_tables(page)
    [months], [week] = tables["Is every month there?"], tables["How unusual is the newest week?"]
    check_months(months, db, as_of)
    expected = [
        {"KPI": kpi.label, "newest week": found[0], "times the usual variation": found[1]}
        for kpi in LABELS.values()
        if (found := weigh(read, "company", kpi, as_of))
    ]
    assert len(expected) > 3
    assert sorted(week.rows, key=str) == sorted(expected, key=str)
    times = [float(row["times the usual variation"]) for row in week.rows]
    assert times == sorted(times, reverse=True)
    return len(checks) + len(months.rows) * len(GROWING) + 3 * len(week.rows)


def check_months(months: Table, db: Db, as_of: date) -> None:
    """Hold the records of each month against the raw tables."""
    counts = {
        name: dict(
            db.execute(
                f"SELECT strftime({day_of(f'raw_{name}')}, '%Y-%m') AS month, COUNT(*) FROM st_raw_v2.raw_{name}"
                f" WHERE {day_of(f'raw_{name}')} <= ? GROUP BY month",
                [as_of],
            ).fetchall()
        )
        for name in GROWING
    }
    counts = {name: of_month for name, of_month in counts.items() if of_month}
    first = min(min(of_month) for of_month in counts.values())
    expected = [f"{month:%Y-%m}" for month in pd.date_range(f"{first}-01", as_of, freq="MS")][::-1]
    assert [row["month"] for row in months.rows] == expected
    assert months.heads == ["month", *(name.replace("_", " ") for name in sorted(counts))]
    for row in months.rows:
        for name, of_month in counts.items():
            assert row[name.replace("_", " ")] == f"{of_month.get(row['month'], 0):,}", (name, row)


def day_of(table: str) -> str:
    """The day of a row of a table that has one; empty for a short list."""
    if table.startswith("fact_"):
        return "event_date"
    column = DATED.get(table, "createdOn" if table.removeprefix("raw_") in GROWING else "")
    return local(column) if column in ("createdOn", "created_on") else column


def weigh(read: Read, place: str, kpi: Kpi, as_of: date) -> tuple[str, str] | None:
    """How far the newest week of a KPI that is final is from the twelve before it, in words and in times its usual
    variation; None where it is too small to say.
    """
    newest = as_of - timedelta(days=6 + kpi.complete_after)
    newest -= timedelta(days=newest.weekday())
    weeks = [newest - timedelta(weeks=n) for n in range(WEEKS, -1, -1)]
    *before, value = [read(place, week, week + timedelta(days=6), kpi.name) for week in weeks]
    known = [Decimal(each) for each in before if each is not None]
    if len(known) < WEEKS // 2 or 0 in known or value is None:
        return None
    usual, value = median(known), Decimal(value)
    least = usual * Decimal("0.05")
    if kpi.is_level:
        moves = [late - early for early, late in pairwise(known)]
        if 0 in moves:
            return None
        middle, spread, off = median(moves), moves, value - known[-1]
    else:
        middle, spread, off = usual, known, value
        least = max(least, usual.sqrt() if kpi.kind == "count" else Decimal("0.05") if kpi.kind == "rate" else 0)
    variation = max(Decimal("1.4826") * median([abs(each - middle) for each in spread]), least)
    shown = [format_rounded(float(each), kpi.kind) for each in (value, usual)]
    day = f"{newest:%b} {newest.day}, {newest.year}"
    return f"{shown[0]} where {shown[1]} is usual, week of {day}", f"{abs(off - middle) / variation:.1f}"


@dataclass(frozen=True)
class Window:
    """The warehouse, and the days whose rows are recent."""

    db: Db
    read: Read
    first: date
    last: date

    def rows(self, table: str, day: str | None = None) -> str:
        """The rows of the days as a query to select from; with an empty `day`, all of them."""
        day = day_of(table) if day is None else day
        within = f"{day} BETWEEN DATE '{self.first}' AND DATE '{self.last}'" if day else "TRUE"
        return f"(SELECT * FROM {NAMES.get(table[:4], 'st_mart_v2')}.{table} WHERE {within})"

    def count(self, table: str, condition: str = "TRUE", day: str | None = None) -> int:
        """How many rows of the days meet a condition."""
        return int(ask(self.db, f"SELECT COUNT(*) FROM {self.rows(table, day)} WHERE {condition}"))


def check_found(window: Window, check: Check) -> bool:
    """Hold what a check found against the rows; whether its title and words are known here."""
    table, _, what = check.title.partition(": ")
    if what and re.fullmatch(r"\w+", table):
        check_expectation(window, table, what, check.found)
        return True
    found = re.sub(r" \(and \d+ more\)$", "", check.found)
    for title, (pattern, count) in FOUND.items():
        if title == check.title:
            match = re.match(pattern, found)
            assert match, check
            expected = count(window, *match.groups())
            assert found.startswith(expected), (check, expected)
            return True
    return False


EXPECTED = re.compile(
    r"(.+?) (?:is|are|has) (?:never empty|hardly ever empty|unique|unique together|in its range|in order|its type"
    r"|known values only)"
)


def check_expectation(window: Window, table: str, what: str, found: str) -> None:
    """Hold what an expectation counted against the rows: how many of how many miss it."""
    rows = window.count(table)
    if what == "there are rows":
        assert found == f"{rows:,} rows", (table, found)
        return
    match = EXPECTED.fullmatch(what)
    assert match, what
    columns = [f'"{column}"' for column in match[1].split(" and ")]
    wrong = 0
    if what.endswith("empty"):
        wrong = window.count(table, f"{columns[0]} IS NULL")
    elif what.endswith(("unique", "unique together")):
        key = ", ".join(columns)
        wrong = window.count(
            table, f"({key}) IN (SELECT ({key}) FROM {window.rows(table)} GROUP BY {key} HAVING COUNT(*) > 1)"
        )
    elif what.endswith("known values only"):
        values = find_arguments(table, match[1], "BeInSet")["value_set"]
        wrong = window.count(table, f"{columns[0]} NOT IN ({', '.join(map(repr, values))})")
    elif what.endswith("in its range"):
        limits = find_arguments(table, match[1], "BeBetween")
        low, high = limits.get("min_value", "-1e30"), limits.get("max_value", "1e30")
        wrong = window.count(table, f"{columns[0]} NOT BETWEEN {low} AND {high}")
    elif what.endswith("in order"):
        wrong = window.count(table, f"{columns[0]} < {columns[1]}")
    elif found.startswith("is "):  # a type's name, no number
        return
    assert re.fullmatch(rf"{wrong:,} of {rows:,} rows(, such as .*)?", found), (table, what, found, wrong, rows)


def find_arguments(table: str, column: str, what: str) -> Mapping[str, Any]:
    """What a suite says of a column: its values or its range."""
    for path in (settings.ROOT / "expectations" / "suites").glob("*.yml"):
        for name, suite in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            for kind, arguments in (line for each in suite["expectations"] for line in each.items()):
                if name.endswith(f".{table}") and kind.endswith(what) and arguments.get("column") == column:
                    found: Mapping[str, Any] = arguments
                    return found
    raise LookupError(f"{table}.{column}")


def count_days(window: Window, entity: str) -> dict[date, int]:
    """The records of an entity by day, from its first one to the last day."""
    day = day_of(f"raw_{entity}")
    counts = dict(
        window.db.execute(
            f"SELECT {day} AS day, COUNT(*) FROM st_raw_v2.raw_{entity} WHERE {day} <= ? GROUP BY day", [window.last]
        ).fetchall()
    )
    first = min(counts)
    return {
        day: counts.get(day, 0) for n in range((window.last - first).days + 1) for day in [first + timedelta(days=n)]
    }


def tell_coverage(window: Window, entity: str, month: str) -> str:
    by_month: dict[str, list[int]] = {}
    for day, count in count_days(window, entity).items():
        by_month.setdefault(f"{day:%Y-%m}", []).append(count)
    whole = [sum(days) for name, days in by_month.items() if len(days) == pd.Period(name).days_in_month]
    usual = median(whole) * len(by_month[month]) / pd.Period(month).days_in_month
    return f"{entity} {month}: {sum(by_month[month]):,} rows where about {usual:,.0f} are usual"


def tell_silence(window: Window, entity: str) -> str:
    busy = [day for day, count in count_days(window, entity).items() if count]
    recent = [day for day in busy if day >= busy[-1] - timedelta(weeks=WEEKS)]
    gaps = [(late - early).days for early, late in pairwise(recent)]
    return f"{entity}: nothing for {(window.last - busy[-1]).days} days, the longest gap before was {max(2, *gaps)}"


def tell_volume(window: Window, entity: str, text: str) -> str:
    days, day = count_days(window, entity), date.fromisoformat(text)
    before = [days[each] for n in range(1, WEEKS + 1) if (each := day - timedelta(weeks=n)) in days]
    return f"{entity} {day}: {days[day]:,} rows where {median(before):,.0f} are usual on a {day:%A}"


def tell_keys(window: Window, entity: str) -> str:
    older = f"{day_of(f'raw_{entity}')} < DATE '{window.first}'" if entity in GROWING else "TRUE"
    found = f"SELECT COUNT(*) - COUNT(DISTINCT _key) FROM st_raw_v2.raw_{entity} WHERE {older}"
    rows = window.count(f"raw_{entity}", older, day="")
    return f"{entity}: {rows} rows, {ask(window.db, found)} without a key of their own"


def tell_links(window: Window, link: str, older: str) -> str:
    table, column, condition, day, target = POINTERS[link]
    day = local(day) if day == "createdOn" else day
    rows = (
        f"{table} WHERE {condition} AND {column} IS NOT NULL AND {day} {'<' if older else '>='} DATE '{window.first}'"
    )
    lost = ask(window.db, f"SELECT COUNT(*) FROM {rows} AND {column} NOT IN (SELECT id FROM st_raw_v2.{target})")
    return f"{link}{older or ''}: {lost} of {ask(window.db, f'SELECT COUNT(*) FROM {rows}')} lead nowhere"


def tell_jobless(window: Window, age: str) -> str:
    sign = ">=" if age == "recent" else "<"
    rows = f"active IS NOT FALSE AND {local('createdOn')} {sign} DATE '{window.first}'"
    counts = [
        window.count("raw_invoices", f"{rows} AND {more}", day="") for more in ("(jobId IS NULL OR jobId = 0)", "TRUE")
    ]
    return f"{age} invoices: {counts[0]} of {counts[1]} have no job"


def tell_jobs(window: Window, unit: str, words: str) -> str:
    id = "(SELECT id FROM st_raw_v2.raw_business_units WHERE name = '{}')".format(unit.replace("'", "''"))
    jobs = 0 if words.startswith("is in") else window.count("raw_jobs", f"businessUnitId IN {id}")
    return f"{unit}: {jobs} jobs" if jobs else f"{unit}: {words}"


def tell_renamed(window: Window, name: str) -> str:
    named = "(SELECT id FROM st_raw_v2.{} WHERE name = '{}')"
    text = name.replace("'", "''")
    jobs = [
        window.count("raw_jobs", f"{column} IN {named.format(table, text)}", day="")
        for column, table in (("businessUnitId", "raw_business_units"), ("jobTypeId", "raw_job_types"))
    ]
    return f"{name}: was called {name} when its {max(jobs)} jobs counted as "


def tell_produced(window: Window, unit: str) -> str:
    weeks = ask(
        window.db, "SELECT SUM(dollars_produced) FROM st_mart_v2.kpi_weekly_by_bu WHERE business_unit = ?", unit
    )
    jobs = "SELECT DISTINCT job_id FROM st_mart_v2.fact_production WHERE business_unit = ? AND event_date <= ?"
    invoices = f"SELECT SUM(subTotal) FROM st_raw_v2.raw_invoices WHERE active IS NOT FALSE AND jobId IN ({jobs})"
    return (
        f"{unit}: weeks ${round_half_up(weeks)}, invoices ${round_half_up(ask(window.db, invoices, unit, window.last))}"
    )


def tell_owed(window: Window, unit: str) -> str:
    moved = ask(window.db, "SELECT SUM(amount) FROM st_mart_v2.fact_receivables WHERE business_unit = ?", unit)
    balances = "SELECT SUM(balance) FROM st_ref_v2.dim_invoices WHERE business_unit = ? AND is_active"
    return f"{unit}: movements ${round_half_up(moved)}, balances ${round_half_up(ask(window.db, balances, unit))}"


def round_half_up(value: Any) -> int:
    return int(Decimal(value or 0).quantize(Decimal(1), "ROUND_HALF_UP"))


def tell_weekly(window: Window, label: str) -> str:
    """By sums of days, of what can be added up."""
    kpi = LABELS[label]
    differ = 0
    for unit, week, last, value in window.db.execute(
        f"SELECT business_unit, week_start, last_day, {kpi.name} FROM st_mart_v2.kpi_weekly_by_bu"
        f" WHERE division IN ('{kpi.division}', 'Both')"
    ).fetchall():
        ours = window.read(f"unit:{unit}", week, last, kpi.name)
        differ += (ours is None) != (value is None) or abs(Decimal(ours or 0) - Decimal(value or 0)) > Decimal("1e-8")
    return f"{label}: {differ} weekly numbers differ from their rows"


def tell_week(window: Window, scope: str, label: str) -> str:
    place = "company" if scope == "The company" else f"unit:{scope}"
    found = weigh(window.read, place, LABELS[label], window.last)
    return f"{scope}, {label}: {found[0]}" if found else "too small to say"


def tell_future(window: Window, what: str) -> str:
    table, condition = AHEAD[what]
    return f"{what}: {window.count(table, condition, day='')} of {window.count(table, day='')} lie in the future"


def tell_count(words: str, sql: str) -> Any:
    """How many records of an entity a query counts."""
    return lambda window, entity: f"{entity}: {ask(window.db, sql.format(entity=entity))} {words}"


def tell_age(window: Window, entity: str, hours: str) -> str:
    """A night takes minutes: what it read is not an hour old by then."""
    return f"{entity}: read {hours} hours ago" if int(hours) == 0 else f"{entity}: read 0 hours ago"


FOUND: Mapping[str, tuple[str, Any]] = {  # by the title of a check: which of its words are looked up, and how
    "Every entity has every month": (r"(\w+) (\d{4}-\d\d): ", tell_coverage),
    "Every entity was read within a day": (r"(\w+): read ([\d,]+) hours ago", tell_age),
    "Every list that figures count may be read": (r"([\w ]+): can be read", lambda _, name: f"{name}: can be read"),
    "New records keep coming": (r"(\w+): ", tell_silence),
    "The last seven days have as many records as usual": (r"(\w+) (\S+): ", tell_volume),
    "No record is in quarantine": (
        r"(\w+): ",
        tell_count("records in quarantine", "SELECT COUNT(*) FROM st_logs_v2.quarantine WHERE entity = '{entity}'"),
    ),
    "Every field that a figure is made of comes from ServiceTitan": (
        r"(\w+): has every field",
        lambda _, name: f"{name}: has every field",
    ),
    "No record was deleted in ServiceTitan in the last week": (
        r"(\w+): ",
        tell_count("were deleted in ServiceTitan", "SELECT COUNT(*) FROM st_logs_v2.deleted WHERE entity = '{entity}'"),
    ),
    "Older rows and reference lists have unique keys": (r"(\w+): ", tell_keys),
    "Links between records lead to a record": (r"([\w ]+?)(, older)?: ", tell_links),
    "Invoices know their job": (r"(\w+) invoices: ", tell_jobless),
    "Every business unit is in business_units.csv": (r"(.+?): (.+)", tell_jobs),
    "No unit and no job type was renamed so that its past counts otherwise": (r"(.+?): was", tell_renamed),
    "Every name in the company's files is one of ServiceTitan's": ("(Every name is.)", lambda _, words: words),
    "Nothing happened in the future": (r"([\w ]+): ", tell_future),
    "No record was modified in the future": (
        r"(\w+): ",
        tell_count(
            "are modified in the future",
            "SELECT COUNT(*) FROM st_raw_v2.raw_{entity} WHERE modifiedOn > _ingested_at + INTERVAL 1 DAY",
        ),
    ),
    "Every weekly number is what its rows add up to": (r"(.+?): ", tell_weekly),
    "$ Produced is the sum of its invoices": (r"(.+?): ", tell_produced),
    "Outstanding A/R is the sum of the invoices' balances": (r"(.+?): ", tell_owed),
    "The company's newest week is like the weeks before": (r"(The company), (.+?): ", tell_week),
    "Each unit's newest week is like its weeks before": (r"(.+), (.+?): ", tell_week),
}
