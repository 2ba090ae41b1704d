"""The numbers that a company's pages show, read as they are drawn, and the same counted here from the tables, by
another way than the code's: sums of days instead of a period's rows, rows counted in Python, the usual from its weeks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from browser import go, read_address
from playwright.sync_api import Page

from stkpi.formatting import format_number, format_rounded
from stkpi.kpis.catalog import Kpi, read_catalog
from stkpi.warehouse import Warehouse

IDS = {  # what is counted once, however many rows name it
    "leads": ("fact_leads", "customer_id"),
    "estimates_scheduled": ("fact_estimates_scheduled", "job_id"),
    "estimates": ("fact_estimates", "job_id"),
}
RATES = {
    "success_rate": ("closed", "opportunities"),
    "gpm": ("gross_margin", "gross_margin_base"),
    "warranty_rate": ("warranty_cost", "warranty_base"),
}
SUMS = ("total_booked", "dollars_produced", "dollars_collected")
OWED_AT_LEAST = 10  # dollars, by a location in a unit
UNIT = 10_000  # of a dollar: sums of whole numbers are exact, and fast
NOTE = re.compile(r"as usual|usually \S+|[\d,.]+(?:%| pt|) (?:above|below) usual")
CHANGE = re.compile(r"from (?P<old>\S+) to (?P<new>\S+)|(?P<by>[+-][\d,.]+)(?P<sign>%| pt|)")

Read = Callable[[str, date, date, str], Any]


@dataclass(frozen=True)
class Cell:
    """A number as a page draws it: where it leads, what stands under the pointer, the words beside it with their class,
    and whether it is a scorecard.
    """

    where: tuple[str, str, str]
    shown: str
    title: str
    beside: list[tuple[str, str]]
    is_card: bool

    @property
    def words(self) -> str:
        """All that stands beside it."""
        return " · ".join(text for text, _ in self.beside)


def read_cells(page: Page) -> list[Cell]:
    """Return every number of the scorecards and tables, but for the list of what ServiceTitan showed."""
    found = page.eval_on_selector_all(
        "main .card > a, main td > a[href*='kpi=']:not(.all-seen a)",
        """(links) => links.map((a) => [a.getAttribute("href"), (a.querySelector("strong") || a).textContent.trim(),
        a.title, [...a.parentElement.querySelectorAll(":scope > small")].map((one) => [one.innerText, one.className]),
        a.parentElement.matches(".card")])""",
    )
    return [Cell(read_address(href), *rest) for href, *rest in found]


def read_marts(target: Warehouse) -> tuple[Read, date]:
    """Return a function that counts a KPI of a place ("company", "region:…", "unit:…") from a first to a last day, and
    the first day of the tables. A rate without a denominator is None.
    """
    daily = target.query("SELECT * FROM st_mart_v2.kpi_daily_by_bu")
    rows = {name: target.query(f"SELECT * FROM st_mart_v2.{table}") for name, (table, _) in IDS.items()}
    ahead = target.query(
        "SELECT business_unit, event_date, job_known_from, produced FROM st_mart_v2.fact_future_bookings"
    )
    owed = target.query("SELECT business_unit, event_date, location_id, amount FROM st_mart_v2.fact_receivables")
    for frame in (daily, ahead, owed, *rows.values()):
        frame["event_date"] = frame["event_date"].map(date.toordinal)  # whole numbers are compared fast
    exact = owed["amount"] * UNIT
    owed["amount"] = exact.astype("int64")
    assert (owed["amount"] == exact).all()
    regions = daily.fillna({"region": "No region"}).groupby("region")["business_unit"].unique()

    tables = {"daily": daily, "ahead": ahead, "owed": owed, **rows}

    @cache
    def of(place: str, table: str) -> pd.DataFrame:
        kind, _, name = place.partition(":")
        units = [name] if kind == "unit" else regions[name] if name else daily["business_unit"].unique()
        return tables[table][tables[table]["business_unit"].isin(units)]

    @cache
    def read(place: str, first: date, last: date, kpi: str) -> Any:
        def within(table: str, columns: Any, low: date = first, high: date = last) -> Any:
            found = of(place, table)
            return found.loc[found["event_date"].between(low.toordinal(), high.toordinal()), columns]

        if kpi in IDS:
            return within(kpi, IDS[kpi][1]).nunique()
        if kpi in SUMS:
            return sum(within("daily", kpi), Decimal(0))
        if kpi in RATES:
            part, whole = (sum(map(Decimal, within("daily", column)), Decimal(0)) for column in RATES[kpi])
            return part / whole if whole else None
        if kpi == "future_bookings":
            monday = last - timedelta(days=last.weekday())
            end = (pd.Timestamp(monday) + pd.DateOffset(years=1)).date()
            found = within("ahead", ["job_known_from", "produced"], monday, end)
            return sum(found.loc[found["job_known_from"] <= last, "produced"], Decimal(0))
        assert kpi == "outstanding_ar", f"how {kpi} is counted is not said here"
        grain = ["business_unit", "location_id"]
        open_ = within("owed", [*grain, "amount"], date.min).groupby(grain, dropna=False)["amount"].sum()
        return Decimal(int(open_[open_ >= OWED_AT_LEAST * UNIT].sum())) / UNIT

    return read, date.fromordinal(daily["event_date"].min())


def spell(value: Any, kpi: Kpi) -> str:
    """Return a number as the pages show it."""
    return format_rounded(float("nan") if value is None else value, kpi.kind)


def check_weeks(cells: list[Cell], read: Read, first_day: date) -> int:
    """Hold numbers of full weeks against the tables: the number, the exact one under the pointer, and how far it is
    from the usual. Return how many of them say that.
    """
    notes = 0
    for cell in cells:
        place, week, name = cell.where
        kpi, monday = read_catalog()[name], date.fromisoformat(week)
        now = read(place, monday, monday + timedelta(days=6), name)
        assert cell.shown == spell(now, kpi), cell
        if not cell.is_card:
            exact = format_number(now, kpi.kind)
            assert cell.title == ("" if exact == cell.shown else exact), cell
        mondays = [monday - timedelta(weeks=n) for n in range(1, 13)]
        before = [read(place, day, day + timedelta(days=6), name) for day in mondays if day >= first_day]
        before = [Decimal(value) for value in before if value is not None]
        note = NOTE.search(cell.words)
        if "until" in cell.words or now is None or not before:
            assert not note, cell
            continue
        assert note, cell
        usual = sum(before) / len(before)
        [mood] = [mood for text, mood in cell.beside if text == note[0]]
        check_change(to_change(note[0], cell.shown), mood, Decimal(now), usual, kpi)
        notes += 1
    return notes


def to_change(note: str, shown: str) -> str:
    """Return how far a number is from the usual as a change.

    >>> to_change("12% below usual", "$84"), to_change("usually $2", "$84"), to_change("as usual", "$84")
    ('-12%', 'from $2 to $84', 'no change')
    """
    if note.startswith("usually "):
        return f"from {note.split()[1]} to {shown}"
    words, _, side = note.removesuffix(" usual").rpartition(" ")
    return f"{'+' if side == 'above' else '-'}{words}" if words else "no change"


def check_change(told: str, mood: str, now: Decimal, before: Decimal, kpi: Kpi) -> None:
    """Hold a change in words (+3, -1.2 pt, +12%, from $2 to $84, no change), and whether it is welcome, against both
    numbers: to half of the last digit that it has.
    """
    where, off = f"{kpi.name}: {told} ({mood}), {before} to {now}", now - before
    if told == "no change":
        slack = {"count": 1, "rate": Decimal("0.001"), "money": abs(before) / 2000 + 1}[kpi.kind]
        assert (abs(off) <= slack, mood) == (True, "flat"), where
        return
    change = CHANGE.fullmatch(told)
    assert change, where
    assert mood == ("good" if off * kpi.good > 0 else "bad"), where
    if change["old"]:
        assert (change["old"], change["new"]) == (spell(before, kpi), spell(now, kpi)), where
        assert before <= 0 or now <= 0 or now > 3 * before, where
        return
    by = Decimal(change["by"].replace(",", ""))
    sign, value = {"count": ("", off), "rate": (" pt", off * 100), "money": ("%", off / (before or 1) * 100)}[kpi.kind]
    assert change["sign"] == sign, where
    # A change of a count is one of whole numbers: both may be rounded.
    last = 1 if kpi.kind == "count" else Decimal("0.5001").scaleb(by.as_tuple().exponent)
    assert abs(by - value) <= last, where


def list_periods(as_of: date, first_day: date) -> Iterator[tuple[str, date, date, str]]:
    """Yield the periods that a page has besides full weeks: its id, days and words, with those of a year ago."""
    monday = as_of - timedelta(days=as_of.weekday())
    if as_of.weekday() < 6:
        yield str(monday), monday, as_of, ", so far"
    for kind, start in (("month", as_of.replace(day=1)), ("year", as_of.replace(month=1, day=1))):
        before = [(pd.Timestamp(day) - pd.DateOffset(years=1)).date() for day in (start, as_of)]
        if start >= first_day:
            yield kind, start, as_of, f"{kind.title()} to date"
        if before[0] >= first_day:
            yield f"{kind}-ago", *before, f"{kind.title()} to date a year ago"


def check_to_date(page: Page, read: Read, as_of: date, first_day: date, most: int | None = None) -> set[str]:
    """Hold what Explore shows of the running week and of the month and year to date against the tables, for every
    place, or `most` of them: scorecards with their number of a year ago, and tables. Return the periods.
    """
    places = page.eval_on_selector_all("#place option", "(all) => all.map((one) => one.value)")[:most]
    spans = {id: (first, last, words) for id, first, last, words in list_periods(as_of, first_day)}
    for id, (first, last, words) in spans.items():
        for place in places:
            go(page, f"#{urlencode({'period': id, 'place': place})}")
            assert words in page.inner_text("h1"), (id, place)
            cells = read_cells(page)
            assert cells
            for cell in cells:
                where, period, name = cell.where
                kpi, value = read_catalog()[name], read(where, first, last, name)
                assert (period, cell.shown) == (id, spell(value, kpi)), cell
                assert not NOTE.search(cell.words), cell  # what is not over is not above or below the usual
                if not cell.is_card:
                    exact = format_number(value, kpi.kind)
                    assert cell.title == ("" if exact == cell.shown else exact), cell
                elif f"{id}-ago" in spans:
                    before = read(where, *spans[f"{id}-ago"][:2], name)
                    assert f"a year ago {spell(before, kpi)}" in cell.words, cell
    return set(spans)


def check_report(page: Page, read: Read, monday: date) -> int:
    """Hold the page of a night's KPIs against the tables: the company's tiles and every unit's numbers with their
    change against the week before, and the weeks of every unit. Return how many numbers there were.
    """
    kpis = {kpi.label: kpi for kpi in read_catalog().values()}
    found = page.evaluate(
        """() => [...document.querySelectorAll(".tile")].map((tile) => ["company", "",
        ...[...tile.children].map((one) => one.textContent), tile.className]).concat(
        [...document.querySelectorAll("table.figures")].flatMap((table) => [...table.tBodies[0].rows].flatMap((row) =>
        [...row.querySelectorAll("td:not(.words)")].map((cell) => [row.cells[0].textContent,
        table.closest("details")?.querySelector("summary").textContent ?? "",
        table.tHead.rows[0].cells[cell.cellIndex].textContent, cell.firstChild.textContent.trim(),
        cell.querySelector(".change")?.textContent ?? "", cell.className]))))"""
    )
    count = 0
    for name, fold, label, shown, change, kind in found:
        if label not in kpis:  # other tables than those of the KPIs
            continue
        day = pd.Timestamp(name).date() if fold else monday
        where, kpi = f"unit:{fold or name}" if name != "company" else name, kpis[label]
        now = read(where, day, day + timedelta(days=6), kpi.name)
        assert shown == spell(now, kpi), (name, fold, label, shown)
        count += 1
        if not change or "until" in change or fold:
            assert fold or now is None or "until" in change or not change.strip()
            continue
        before = read(where, day - timedelta(weeks=1), day - timedelta(days=1), kpi.name)
        check_change(change.replace("\xa0", " "), kind.removeprefix("tile "), Decimal(now), Decimal(before), kpi)
    return count


# --- the rows behind a figure -----------------------------------------------------------------------------------------


def read_rows(page: Page) -> list[dict[str, str]]:
    """The rows behind the figure that Explore shows, all of them, as they are drawn; without cells that are empty."""
    if page.locator("#rows select").count():
        page.select_option("#rows select", "1000")
    heads = page.locator("#rows thead th").all_inner_texts()
    rows = page.eval_on_selector_all(
        "#rows tbody tr", "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return [{head: text for head, text in zip(heads, row, strict=True) if text} for row in rows]


# What a row adds, by the heading that it has: each KPI's own way to say it, from the columns of its fact.
AMOUNTS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    "leads": {},
    "estimates_scheduled": {},
    "estimates": {},
    "success_rate": {"Closed": lambda row: int(row["sold_estimates"] > 0), "Opportunities": lambda row: 1},
    "total_booked": {"Total Booked": lambda row: row["amount"]},
    "dollars_produced": {"$ Produced": lambda row: row["produced"]},
    "gpm": {
        "Gross margin": lambda row: row["produced"] - row["labor"],
        "Gross margin base": lambda row: row["produced"],
    },
    "warranty_rate": {
        "Warranty cost": lambda row: (
            row["is_warranty"]
            * (row["labor"] + row["purchase_orders"] + row["bills"] + row["materials"] - row["returns"])
        ),
        "Warranty base": lambda row: row["produced"],
    },
    "future_bookings": {"Future Bookings": lambda row: row["produced"]},
    "dollars_collected": {"$ Collected": lambda row: row["amount"]},
    "outstanding_ar": {"Outstanding A/R": lambda row: row["amount"]},
}
NAMED = {  # what else a row says
    "appointment_status": "Appointment status",
    "estimate_id": "Estimate #",
    "estimate_name": "Estimate name",
    "payment_id": "Payment #",
    "applied_to_number": "Applied to #",
    "invoice_number": "Invoice #",
    "payment_type": "Payment type",
}


def spell_amount(value: Any, kind: str) -> str:
    """Return an amount as a row shows it: with all the digits that it has, two of cents at least."""
    if kind == "count":
        return str(value)
    dollars, _, cents = f"{abs(Decimal(value)):,.4f}".partition(".")
    return f"{'-' if value < 0 else ''}${dollars}.{cents[:2]}{cents[2:].rstrip('0')}"


def list_open(facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is left of invoices, of the movements up to a day: of locations that owe ten dollars at least."""
    owed: dict[Any, Decimal] = defaultdict(Decimal)
    items: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in facts:
        owed[row["business_unit"], row["location_id"]] += row["amount"]
        items[
            tuple(row[name] for name in ("business_unit", "location_id", "invoice_number", "job_id", "customer_id"))
        ].append(row)
    found = []
    for (unit, location, *_), rows in items.items():
        left = sum((row["amount"] for row in rows), Decimal(0))
        if left and owed[unit, location] >= OWED_AT_LEAST:
            found.append(
                rows[0] | {"amount": left, "event_date": min(row["event_date"] for row in rows), "payment_id": None}
            )
    return found


def list_fact_rows(
    target: Warehouse, name: str, place: str, first: date, last: date
) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Return the rows of a KPI's fact that count for a place and days as Explore is to show them, those together that
    count as one; and what their amounts add up to.
    """
    kpi, (low, high) = read_catalog()[name], (first, last)
    if name == "future_bookings":
        low = last - timedelta(days=last.weekday())
        high = (pd.Timestamp(low) + pd.DateOffset(years=1)).date()
    if name == "outstanding_ar":
        low = date.min
    kind, _, where = place.partition(":")
    facts = target.query(
        "SELECT facts.*, jobs.job_number AS job_of, jobs.job_type_name AS type_of, jobs.job_status AS status_of,"
        " COALESCE(jobs.customer_name, customers.customer_name) AS customer_of"
        f" FROM st_mart_v2.{kpi.fact} AS facts LEFT JOIN st_ref_v2.dim_jobs AS jobs ON facts.job_id = jobs.job_id"
        " LEFT JOIN st_ref_v2.dim_customers AS customers ON facts.customer_id = customers.customer_id"
        " WHERE event_date BETWEEN @low AND @high",
        low=low,
        high=high,
    )
    facts = facts.astype(object).where(facts.notna(), None)
    rows: list[dict[str, Any]] = facts.to_dict("records")
    if kind != "company":
        rows = [row for row in rows if row["business_unit" if kind == "unit" else "region"] == where]
    if name == "future_bookings":
        rows = [row for row in rows if row["job_known_from"] <= last]
    if name == "outstanding_ar":
        rows = list_open(rows)
    groups: dict[Any, list[dict[str, str]]] = defaultdict(list)
    sums: dict[str, Any] = dict.fromkeys(AMOUNTS[name], 0)
    for number, row in enumerate(rows):
        amounts = {label: count(row) for label, count in AMOUNTS[name].items()}
        sums = {label: total + amounts[label] for label, total in sums.items()}
        day = row["event_date"]
        spelled = {
            "Job": row["job_of"] or row["job_id"],
            "Customer": row["customer_of"],
            "Type": row["type_of"],
            "Status": row["status_of"],
            "Counts on": f"{day:%a, %b} {day.day}, {day.year}",
            **{label: row[column] for column, label in NAMED.items() if column in row},
            **{label: spell_amount(amount, kind_of(name)) for label, amount in amounts.items()},
            "Unit": None if kind == "unit" else row["business_unit"],
        }
        key = row[IDS[name][1]] if name in IDS and name != "estimates" else number
        if key is not None:
            groups[key].append({label: str(text) for label, text in spelled.items() if text not in (None, "")})
    return list(groups.values()), [f"{label} {spell_amount(total, kind_of(name))}" for label, total in sums.items()]


def kind_of(name: str) -> str:
    return "count" if name == "success_rate" else "money"


def check_rows(page: Page, target: Warehouse, name: str, place: str, first: date, last: date) -> int:
    """Hold every cell of the rows behind a figure, and what they add up to, against the fact table. Of a thing that is
    counted once, the jobs of its other rows stand beside it. Return how many rows there were.
    """
    groups, sums = list_fact_rows(target, name, place, first, last)
    shown = read_rows(page)
    assert len(shown) == len(groups), name
    assert page.inner_text("#sum") == (" · ".join(sums) if groups else "Nothing counts for these days.")
    for row in shown:
        beside = sorted(filter(None, row.pop("Counted with it", "").split(", ")))
        group = next((each for each in groups if row in each), None)
        assert group, row
        groups.remove(group)
        group.remove(row)
        assert beside == sorted(each["Job"] for each in group), row
    return len(shown)
