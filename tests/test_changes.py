"""What changed since: every restated figure is kept with its reasons, which add up to it, down to the records."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from browser import ON_EVERY_SCREEN, Watched
from playwright.sync_api import expect
from test_marts import held, put

from sandbox.server import Sandbox
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import company, settings, warehouse
from stkpi.formatting import format_number, format_rounded
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.kpis.definition import choose_definitions, read_definitions
from stkpi.marts import build as marts
from stkpi.marts import history, increment
from stkpi.marts.increment import Plan
from stkpi.reporting import changes, pages, site
from stkpi.reporting.changes import Change, Recount
from stkpi.runs import home
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.bigquery import BigQueryWarehouse
from stkpi.warehouse.duckdb import DuckDBWarehouse

EVER = datetime(2020, 1, 1, tzinfo=UTC)
NOT_TRACED = "what cannot be traced"


def read() -> tuple[list[Change], list[Recount]]:
    with warehouse.connect(read_only=True) as target:
        return changes.read_changes(target, read_definitions(), EVER)


def count_kept() -> dict[str, int]:
    with warehouse.connect(read_only=True) as target:
        return {name: int(target.query(f"SELECT COUNT(*) AS n FROM {name}")["n"][0]) for name in history.TABLES}


def read_weeks(file: Path) -> dict[tuple[str, str, date], Fraction | None]:
    """Every figure of the weekly table by KPI, unit and week."""
    kpis = list(read_definitions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAREHOUSE", str(file))
        rows = read_rows("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
    return {
        (kpi, row["business_unit"], row["week_start"]): None if pd.isna(row[kpi]) else Fraction(row[kpi])
        for row in rows
        for kpi in kpis
    }


def check_changes(before: Path, after: Path, found: list[Change]) -> None:
    """Each figure of a full week that differs between two warehouses is told once, with both numbers and reasons."""
    old, new = read_weeks(before), read_weeks(after)
    full = {key for key in old if key[2] + timedelta(days=6) <= LAST_DAY}
    differing = {key for key in full if old[key] != new[key]}
    told = {(one.kpi.name, one.unit, one.week): one for one in found}
    assert len(told) == len(found)
    assert {key for key, one in told.items() if one.value != one.value_before} == differing
    for key, one in told.items():
        assert (one.value_before, one.value) == (old[key], new[key])
        assert one.reasons
        assert not [reason.words for reason in one.reasons if reason.words.startswith(NOT_TRACED)]
        if one.effect is not None:
            total = sum((reason.effect for reason in one.reasons), Fraction(0))
            assert abs(total - one.effect) <= (Fraction(1, 10**9) if one.kpi.kind == "rate" else 0)  # nine decimals


def read_rows(sql: str, **values: Any) -> list[dict[str, Any]]:
    with warehouse.connect(read_only=True) as target:
        return list(target.query(sql, **values).to_dict("records"))


def find(found: list[Change], kpi: str, unit: str, week: date) -> Change:
    return next(one for one in found if (one.kpi.name, one.unit, one.week) == (kpi, unit, week))


def start_of_week(day: date) -> date:
    return day - timedelta(days=day.weekday())


@pytest.fixture(scope="module")
def restated(built: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A night with late labor, an adjusted invoice, a job that moved, and a customer who was merged into another."""
    file = Path(shutil.copy(built, tmp_path_factory.mktemp("restated") / "warehouse.duckdb"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (sandbox.environment | {"WAREHOUSE": str(file), "AS_OF": LAST_DAY.isoformat()}).items():
            patch.setenv(name, value)
        yield restate(file)


def restate(healthy: Path) -> dict[str, Any]:
    """Change four records of the past and build; return the rows as they were."""
    before = Path(shutil.copy(healthy, healthy.with_name("before.duckdb")))
    produced = read_rows(
        "SELECT facts.* FROM st_mart_v2.fact_production AS facts"
        " INNER JOIN st_ref_v2.dim_jobs AS jobs ON facts.job_id = jobs.job_id"
        " WHERE facts.event_date BETWEEN '2025-07-07' AND '2025-08-31' AND facts.labor > 0 AND facts.produced > 1000"
        " AND jobs.first_appointment_id IS NOT NULL ORDER BY facts.event_date, facts.job_id"
    )
    paid, billed, moved = produced[0], produced[3], produced[6]
    [item] = held("payroll", f"jobId = {paid['job_id']}")[:1]
    put(healthy, "payroll", [item | {"id": 99_000_001, "amount": 231.5, "createdOn": "2025-09-14T08:00:00Z"}])
    invoice = held("invoices", f"jobId = {billed['job_id']} AND active AND subTotal > 0")[0]
    invoice |= {name: str(Decimal(str(invoice[name])) + 100) for name in ("subTotal", "total", "balance")}
    put(healthy, "invoices", [invoice])
    job = held("jobs", f"id = {moved['job_id']}")[0]
    visit = held("appointments", f"id = {job['firstAppointmentId']}")[0]
    later = datetime.fromisoformat(visit["start"][:19]) - timedelta(weeks=1)
    put(healthy, "appointments", [visit | {"start": f"{later:%Y-%m-%dT%H:%M:%S}Z"}])
    one, other = find_two_leads()
    put(healthy, "jobs", [held("jobs", f"id = {one['job_id']}")[0] | {"customerId": other["customer_id"]}])
    customer = held("customers", f"id = {one['customer_id']}")[0]
    put(healthy, "customers", [customer | {"active": False, "mergedToId": other["customer_id"]}])
    assert marts.build_marts().plan.mode == "increment"
    return {"before": before, "paid": paid, "billed": billed, "moved": moved, "lead": one, "file": healthy}


def find_two_leads() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two leads of one unit and week, of two customers who asked once."""
    leads = read_rows(
        "SELECT *, DATE_TRUNC(event_date, WEEK(MONDAY)) AS week FROM st_mart_v2.fact_leads"
        " WHERE event_date BETWEEN '2025-03-03' AND '2025-06-29'"
        " QUALIFY COUNT(*) OVER (PARTITION BY customer_id) = 1 ORDER BY business_unit, week, job_id"
    )
    return next(
        (a, b) for a, b in pairwise(leads) if (a["business_unit"], a["week"]) == (b["business_unit"], b["week"])
    )


def test_late_labor_an_adjusted_invoice_a_moved_job_and_a_merged_customer_are_named(restated):
    found, recounts = read()
    assert recounts == []
    check_changes(restated["before"], restated["file"], found)

    paid = restated["paid"]
    gpm = find(found, "gpm", paid["business_unit"], start_of_week(paid["event_date"]))
    [late] = [reason for reason in gpm.reasons if reason.words == "1 gross pay item arrived"]
    assert (late.amount, late.effect < 0) == (Fraction("231.5"), True)
    assert [(cause.job_id, cause.records) for cause in late.causes] == [
        (paid["job_id"], (("payroll", "99000001", "arrived"),))
    ]

    billed = restated["billed"]
    produced = find(found, "dollars_produced", billed["business_unit"], start_of_week(billed["event_date"]))
    [adjusted] = [reason for reason in produced.reasons if reason.words == "1 invoice changed"]
    assert adjusted.effect == 100

    moved = restated["moved"]
    week = start_of_week(moved["event_date"])
    left = find(found, "dollars_produced", moved["business_unit"], week)
    came = find(found, "dollars_produced", moved["business_unit"], week - timedelta(weeks=1))
    [gone] = [reason for reason in left.reasons if reason.words == "1 job moved to another week"]
    [new] = [reason for reason in came.reasons if reason.words == "1 job moved from another week"]
    assert (gone.effect, new.effect) == (-Fraction(moved["produced"]), Fraction(moved["produced"]))
    assert {entity for entity, _, _ in gone.causes[0].records} == {"appointments"}

    lead = restated["lead"]
    leads = find(found, "leads", lead["business_unit"], start_of_week(lead["event_date"]))
    assert [(reason.words, reason.effect) for reason in leads.reasons] == [("another customer on 1 job", -1)]


def test_the_pages_tell_it_with_the_records(restated):
    with warehouse.connect(read_only=True) as target:
        told = changes.read_changed(target, read_definitions(), datetime.now(UTC), settings.load().time_zone)
    page = pages.render_changes("Acme <Paint>", changes.SHOWN_DAYS, told.kpis)
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "Acme &lt;Paint&gt;" in words
    assert "1 gross pay item arrived (+$231.50): -" in words
    assert "gross pay item 99000001 arrived" in words
    assert "1 invoice changed: +$100.00" in words
    assert "another customer on 1 job: -1" in words
    assert told.lines["leads"]["text"].startswith(f"Changed lately: {restated['lead']['business_unit']}, week of ")
    with warehouse.connect(read_only=True) as target:  # a month later it is old news
        later = datetime.now(UTC) + timedelta(days=changes.SHOWN_DAYS + 1)
        assert changes.read_changed(target, read_definitions(), later, "UTC") == changes.Changed([], {}, {})


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(restated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages after the night that restated."""
    folder = tmp_path_factory.mktemp("pages")
    site.write_site(folder, "20250914-020000-000", LAST_DAY)
    home.write_home(folder)
    return folder


@ON_EVERY_SCREEN
def test_from_a_figure_to_why_it_moved_and_back(restated, runs, browser, width, scheme):
    paid = restated["paid"]
    unit, week = paid["business_unit"], start_of_week(paid["event_date"])
    [gpm] = [one for one in read()[0] if (one.kpi.name, one.unit, one.week) == ("gpm", unit, week)]
    before, now = (format_number(value, "rate") for value in (gpm.value_before, gpm.value))
    watched = Watched(browser, width=width, scheme=scheme)
    page = watched.open(runs / "explore.html", f"#period={week}&place=unit:{unit}&kpi=gpm")
    expect(page.locator("#value")).to_have_text(now)
    assert f"It was {format_rounded(float(gpm.value_before), 'rate')} before." in page.inner_text("main")
    assert watched.list_barriers() == []
    page.click("main p >> text=What changed since")
    line = page.locator("article:target")
    assert re.search(rf"{re.escape(before)} on .+, {re.escape(now)} since ", line.inner_text())
    line.locator("summary >> text=1 gross pay item arrived (+$231.50)").click()
    row = line.locator("tbody tr", has_text="gross pay item 99000001 arrived")
    assert row.locator("a").get_attribute("href") == f"https://go.servicetitan.com/#/Job/Index/{paid['job_id']}"
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert watched.find_overflow() <= 0
    assert watched.find_small_texts() == []
    assert watched.list_barriers() == []
    line.locator("h3 a").click()
    expect(page.locator("h1")).to_contain_text(f"GPM of {unit}")
    watched.context.close()
    assert watched.faults == []


def test_every_change_that_the_page_shows_is_the_one_of_the_tables(restated, runs, browser):
    found = [one for one in read()[0] if one.value != one.value_before]
    expected = {
        one.id: [format_number(value, one.kpi.kind) for value in (one.value_before, one.value)] for one in found
    }
    watched = Watched(browser)
    page = watched.open(runs / "changes.html")
    shown = page.eval_on_selector_all(
        "article",
        "(all) => all.map((one) => [one.id, [...one.querySelectorAll('p strong')].map((each) => each.textContent)])",
    )
    assert len(shown) > 5
    assert dict(shown) == {id: expected[id] for id, _ in shown}
    ids = page.eval_on_selector_all("article, article > span", "(all) => all.map((one) => one.id)")
    assert sorted(ids) == sorted(expected)
    for one in found:  # the reasons, as they are written, add up to the change, as it is written
        if one.kpi.kind != "rate":
            line = page.locator(f"article:has([id='{one.id}']), article[id='{one.id}']")
            effects = [text.rpartition(": ")[2] for text in line.locator("li summary").all_inner_texts()]
            assert sum(map(read_amount, effects)) == one.effect
            for effect, table in zip(effects, line.locator("li table").all(), strict=True):
                rows = table.locator("tbody td:last-child").all_text_contents()
                assert sum(map(read_amount, rows)) == read_amount(effect)
    page = watched.open(runs / "index.html")
    for name, line in {one.kpi.name: one for one in found}.items():
        link = page.locator(f".card a[href^='changes.html#{name}/']")
        assert link.get_attribute("href").partition("#")[2] in expected, line
    watched.context.close()
    assert watched.faults == []


def read_amount(text: str) -> Fraction:
    """A change as people write it: +$1,234.50."""
    return Fraction(text.replace("$", "").replace(",", ""))


def test_where_nothing_changed_nothing_is_kept(restated, tmp_path, monkeypatch):
    monkeypatch.setenv("WAREHOUSE", str(shutil.copy(restated["file"], tmp_path / "warehouse.duckdb")))
    kept = count_kept()
    assert all(kept.values())
    assert marts.build_marts().plan.mode == "nothing"
    assert marts.build_marts(full=True).plan.mode == "full"
    assert count_kept() == kept
    with warehouse.connect(read_only=True) as target:
        assert not [name for name in target.list_columns("st_stage_v2") if ".before_" in name]


def test_another_definition_is_one_line(healthy, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(company.find_folder(settings.load()), tmp_path / "company"))
    monkeypatch.setenv("COMPANY", str(folder))
    before = read_weeks(healthy)
    file = folder / "company.yml"
    file.write_text(
        file.read_text() + "\ndefinitions:\n  leads:\n    - {adopted_on: 2025-09-14, choices: {status: completed}}\n"
    )
    marts.build_marts()
    found, [recount] = read()
    assert found == []
    assert (recount.kpi.name, recount.why) == ("leads", "status completed (completed jobs only)")
    after = read_weeks(healthy)
    assert recount.figures == sum(after[key] != before[key] for key in after if key[0] == "leads") > 0
    assert count_kept()["st_logs_v2.kpi_history"] == 1


def test_what_a_killed_build_replaced_is_told_by_the_next(healthy, monkeypatch):
    before = Path(shutil.copy(healthy, healthy.with_name("before.duckdb")))
    invoices = held("invoices", "active AND subTotal > 0 AND createdOn >= '2025-08-01'")

    def add(invoice: dict[str, Any]) -> dict[str, Any]:
        return invoice | {name: str(Decimal(str(invoice[name])) + 50) for name in ("subTotal", "total", "balance")}

    put(healthy, "invoices", [add(invoices[-1])])
    compute = marts._compute

    def dies(target, mart, mode, parameters):
        if mart.name == history.WEEKLY:
            raise KeyboardInterrupt
        return compute(target, mart, mode, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(marts, "_compute", dies)
        with pytest.raises(KeyboardInterrupt):
            marts.build_marts()
    put(healthy, "invoices", [add(invoices[0])])  # older than what the killed build replaced
    assert marts.build_marts().plan.mode == "increment"
    found, _ = read()
    check_changes(before, healthy, found)
    assert {one.kpi.name for one in found} >= {"dollars_produced", "outstanding_ar"}


def test_too_many_rows_at_once_are_not_kept_and_the_page_says_so(healthy, monkeypatch):
    monkeypatch.setattr(history, "MOST_ROWS", 1)
    invoices = held("invoices", "active AND subTotal > 0 AND createdOn >= '2025-08-01'")[:3]
    put(healthy, "invoices", [invoice | {"subTotal": "1.00"} for invoice in invoices])
    marts.build_marts()
    found, _ = read()
    one = next(one for one in found if one.kpi.name == "dollars_produced")
    assert [reason.words.startswith(NOT_TRACED) for reason in one.reasons] == [True]
    assert one.reasons[0].effect == one.effect


@pytest.mark.soak
def test_night_after_night_the_reasons_of_every_change_add_up_to_it(serve, tmp_path, monkeypatch):
    store = Store()
    populate(store, seed=3, scale=0.02)
    running, file = serve(store, calls_per_second=1_000_000), tmp_path / "warehouse.duckdb"
    for name, value in (running.environment | {"WAREHOUSE": str(file), "AS_OF": LAST_DAY.isoformat()}).items():
        monkeypatch.setenv(name, value)
    assert ingest.run_ingest().status == "ok"
    marts.build_marts()
    for step in (1, 2, 3):
        before = Path(shutil.copy(file, tmp_path / "before.duckdb"))
        since = datetime.now(UTC)
        requests.post(f"{running.url}/sandbox/mutate", json={"step": step}, timeout=30).raise_for_status()
        assert ingest.run_ingest().status == "ok"
        marts.build_marts()
        found = [one for one in read()[0] if one.noted_at > since]
        assert len({one.kpi.name for one in found}) > 8
        check_changes(before, file, found)


# --- both engines -----------------------------------------------------------------------------------------------------

WEEK = date(2025, 8, 18)
TABLES_OF_A_WEEK = ("st_mart_v2.fact_leads", "st_mart_v2.fact_production", increment.RECORDS)


@pytest.fixture(params=["duckdb", pytest.param("bigquery", marks=pytest.mark.soak)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    """An empty warehouse of either engine."""
    if request.param == "duckdb":
        with DuckDBWarehouse(tmp_path / "warehouse.duckdb", 1) as target:
            yield target
    else:
        emulator = request.getfixturevalue("emulator")
        with BigQueryWarehouse(f"test-{uuid.uuid4().hex[:12]}", emulator=emulator) as target:
            yield target


def make_week(customers: str, labor: str) -> tuple[str, str, str]:
    """The statements that make the tables of two jobs in one week: their customers, and the labor of the first."""
    return (
        "CREATE OR REPLACE TABLE st_mart_v2.fact_leads AS\n"
        "SELECT DATE '2025-08-18' AS event_date, 'North' AS business_unit, job_id, customer_id,"
        " TIMESTAMP '2025-08-18 12:00:00+00' AS root_created\n"
        f"FROM (SELECT 1 AS job_id, {customers.split(maxsplit=1)[0]} AS customer_id"
        f" UNION ALL SELECT 2 AS job_id, {customers.split()[1]} AS customer_id)",
        "CREATE OR REPLACE TABLE st_mart_v2.fact_production AS\n"
        "SELECT DATE '2025-08-18' AS event_date, 'North' AS business_unit, 1 AS job_id,"
        f" CAST(1000 AS NUMERIC) AS produced, CAST({labor} AS NUMERIC) AS labor, CAST(0 AS NUMERIC) AS full_cost,"
        " TIMESTAMP '2025-08-18 12:00:00+00' AS root_created",
        "CREATE OR REPLACE TABLE st_mart_v2.kpi_weekly_by_bu AS\n"
        "SELECT DATE '2025-08-18' AS week_start, DATE '2025-08-24' AS last_day, 'North' AS business_unit,"
        " (SELECT COUNT(DISTINCT customer_id) FROM st_mart_v2.fact_leads) AS leads,"
        " produced - labor AS gross_margin, produced AS gross_margin_base,"
        " CAST(SAFE_DIVIDE(produced - labor, produced) AS NUMERIC) AS gpm FROM st_mart_v2.fact_production",
    )


def make_records(*pay: int) -> str:
    """The statement that makes the records: two jobs, and gross pay items of the first with these ids."""
    lines = [("jobs", 1, 1), ("jobs", 2, 2), *(("payroll", item, 1) for item in pay)]
    selects = [
        f"SELECT '{entity}' AS entity, '{key}' AS record_key, {job} AS job_id,"
        " TIMESTAMP '2025-08-18 12:00:00+00' AS created_on, TIMESTAMP '2025-08-18 12:00:00+00' AS version"
        for entity, key, job in lines
    ]
    return "CREATE OR REPLACE TABLE st_ref_v2.records AS\n" + "\nUNION ALL\n".join(selects)


def test_on_both_engines_the_same_is_kept_and_told(engine):
    catalog = choose_definitions({})
    definitions = {name: catalog[name] for name in ("leads", "gpm")}
    built = dict.fromkeys((*TABLES_OF_A_WEEK, history.WEEKLY), "")
    ensure_tables(engine, state.TABLES)
    engine.execute(*make_week("7 8", "300.10"), make_records(51))
    since = datetime(2025, 9, 1, 9, tzinfo=UTC)
    plan = Plan("full", "as asked", since=since)
    history.keep_before(engine, built, definitions, plan)
    history.note_changes(engine, built, definitions, plan)
    assert changes.read_changes(engine, definitions, EVER) == ([], [])
    history.keep_before(engine, built, definitions, plan)
    engine.execute(*make_week("7 7", "331.60"), make_records(51, 52))
    history.note_changes(engine, built, definitions, plan)
    found, _ = changes.read_changes(engine, definitions, EVER)
    told = {one.kpi.name: (one.week, one.value_before, one.value) for one in found}
    assert told == {"gpm": (WEEK, Fraction("0.6999"), Fraction("0.6684")), "leads": (WEEK, 2, 1)}
    reasons = {one.kpi.name: [(reason.words, reason.effect) for reason in one.reasons] for one in found}
    assert reasons == {
        "gpm": [("1 gross pay item arrived", Fraction("-0.0315"))],
        "leads": [("another customer on 1 job", -1)],
    }
    assert found[0].before_at == since
    history.keep_before(engine, built, definitions, plan)
    engine.execute(*make_week("7 8", "0"))
    history.note_changes(engine, built, definitions, replace(plan, recounted=("gpm",), since=datetime.now(UTC)))
    found, [recount] = changes.read_changes(engine, definitions, EVER)
    assert (recount.kpi.name, recount.figures) == ("gpm", 1)
    assert [one.value for one in found if one.kpi.name == "leads"] == [2, 1]
