"""The tables and charts of the KPI page, and the pages themselves, on frames small enough to check by hand."""

import base64
import re
from datetime import date
from decimal import Decimal

import nbformat
import pandas as pd
import pytest

from stkpi.reporting import figures as reports
from stkpi.reporting import pages

AUG_18, AUG_25 = date(2025, 8, 18), date(2025, 8, 25)
NONE = {**dict.fromkeys(reports.SUMS, Decimal(0)), "success_rate": None, "gpm": None, "warranty_rate": None}
BY_COLUMN = {kpi.column: kpi for kpi in reports.KPIS}
LEADS, GPM = BY_COLUMN["leads"], BY_COLUMN["gpm"]
BOOKED, WARRANTY = BY_COLUMN["total_booked"], BY_COLUMN["warranty_rate"]


def sales(week: date, unit: str, leads: int, closed: int, opportunities: int) -> dict:
    """A row of a Sales unit."""
    return NONE | {
        "week_start": week,
        "business_unit": unit,
        "division": "Sales",
        "leads": leads,
        "closed": closed,
        "opportunities": opportunities,
        "success_rate": Decimal(closed) / opportunities,
    }


def production(week: date, unit: str, produced: int, labor: int, warranty: int) -> dict:
    """A row of a Production unit."""
    return NONE | {
        "week_start": week,
        "business_unit": unit,
        "division": "Production",
        "dollars_produced": Decimal(produced),
        "labor_cost": Decimal(labor),
        "warranty_cost": Decimal(warranty),
        "gpm": 1 - Decimal(labor) / produced,
        "warranty_rate": Decimal(warranty) / produced,
    }


@pytest.fixture
def weeks():
    rows = [
        sales(AUG_18, "Phoenix-Sales", 96, 31, 78),
        sales(AUG_18, "Tucson-Sales", 40, 9, 22),
        sales(date(2025, 8, 11), "Phoenix-Sales", 91, 30, 80),
        sales(date(2025, 8, 11), "Tucson-Sales", 44, 10, 20),
        production(AUG_18, "Phoenix-Production", 100_000, 40_000, 2_000),
        production(AUG_18, "Tucson-Production", 300_000, 180_000, 12_000),
        sales(AUG_25, "Phoenix-Sales", 5, 1, 4),
    ]
    return reports.full_weeks(pd.DataFrame(rows), as_of=date(2025, 8, 26))


def words(fragment) -> str:
    """The text of an HTML fragment."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", fragment.data, flags=re.DOTALL))


def captions(fragment) -> list[str]:
    """The titles of the charts."""
    return re.findall(r"<figcaption>(.*?)</figcaption>", fragment.data)


def test_a_running_week_is_left_out_and_a_week_counts_from_its_sunday(weeks):
    assert weeks["week_start"].max() == pd.Timestamp(AUG_18)
    frame = pd.DataFrame([sales(AUG_18, "Phoenix-Sales", 96, 31, 78)])
    assert len(reports.full_weeks(frame, as_of=date(2025, 8, 24))) == 1
    assert len(reports.full_weeks(frame, as_of=date(2025, 8, 23))) == 0


def test_rates_of_the_company_are_ratios_of_sums(weeks):
    newest = reports.totals(weeks).loc[pd.Timestamp(AUG_18)]
    assert newest["leads"] == 136
    assert newest["success_rate"] == 40 / 100
    assert newest["gpm"] == pytest.approx((400_000 - 220_000) / 400_000)
    assert newest["warranty_rate"] == pytest.approx((2_000 + 12_000) / 400_000)
    assert pd.isna(reports.totals(weeks).loc[pd.Timestamp("2025-08-11")]["gpm"])


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1234.4, "count", "1,234"),
        (1234567.5, "money", "$1,234,568"),
        (-1234.0, "money", "-$1,234"),
        (-0.2, "money", "$0"),
        (31 / 78, "rate", "39.7%"),
        (float("nan"), "rate", "—"),
    ],
)
def test_figures_read_as_a_manager_writes_them(value, kind, expected):
    assert reports.text(value, kind) == expected


@pytest.mark.parametrize(
    ("kpi", "now", "before", "expected"),
    [
        (LEADS, 96, 91, ("+5", "good")),
        (LEADS, 91, 91, ("=", "flat")),
        (BOOKED, 150_000, 200_000, ("-25%", "bad")),
        (BOOKED, 150_000, 0, ("", "flat")),
        (GPM, 0.55, 0.60, ("-5.0 pt", "bad")),
        (WARRANTY, 0.02, 0.05, ("-3.0 pt", "good")),
        (GPM, float("nan"), 0.60, ("", "flat")),
    ],
)
def test_a_change_says_whether_it_is_welcome(kpi, now, before, expected):
    assert reports.change(now, before, kpi) == expected


def test_headline_names_the_week_and_all_eleven(weeks):
    text = words(reports.headline(weeks))
    assert "The company, Aug 18 to Aug 24, 2025" in text
    assert "Leads 136 +1 " in text
    assert "Success rate 40.0% = " in text
    assert "GPM 45.0% " in text
    assert all(kpi.label in text for kpi in reports.KPIS)


def test_units_table_has_the_kpis_of_its_division(weeks):
    text = words(reports.units_table(weeks, "Sales"))
    assert (
        "Unit Leads Estimates scheduled Estimates Success rate Total booked Phoenix-Sales 96 +5 0 = 0 = 39.7%" in text
    )
    assert "Production" not in text


def test_units_outside_the_rollup_are_shown_apart(weeks):
    assert reports.units_table(weeks, None).data == ""
    stray = weeks[weeks["business_unit"] == "Tucson-Sales"].assign(division=None, business_unit="Handyman")
    assert "Handyman 40 -4" in words(reports.units_table(pd.concat([weeks, stray]), None))


def test_history_goes_back_as_many_weeks_as_asked(weeks):
    assert "Aug 11, 2025 91 0 0 37.5% $0" in words(reports.history(weeks, 2))
    assert "Aug 11" not in words(reports.history(weeks, 1))


def test_chart_titles_say_the_answer(weeks):
    assert "Leads: 136, 1 above usual" in captions(reports.trends(weeks))
    compared = captions(reports.compared(weeks))
    assert "Leads: Phoenix-Sales is highest with 96" in compared
    assert "Warranty %: Phoenix-Production is lowest with 2.0%" in compared


def test_charts_are_drawn_the_same_each_time(weeks):
    first = re.findall(r"base64,([^\"]+)", reports.compared(weeks).data)
    assert first == re.findall(r"base64,([^\"]+)", reports.compared(weeks).data)
    assert ">Tucson-Sales</text>" in base64.b64decode(first[0]).decode()


def test_a_first_week_has_no_change_and_still_a_page(weeks):
    only = weeks[weeks["week_start"] == pd.Timestamp(AUG_18)]
    assert "Leads 136 Estimates" in words(reports.headline(only))
    assert "Leads: 136, as usual" in captions(reports.trends(only))


def test_any_frame_reads_as_a_table():
    frame = pd.DataFrame({"entity": ["jobs", "<b>"], "fetched": [41_000, 0], "seconds": [1.25, None]})
    fragment = reports.table(frame)
    assert "entity fetched seconds jobs 41,000 1.2 &lt;b&gt; 0 —" in words(fragment)


def test_money_in_a_table_has_its_cents():
    frame = pd.DataFrame({"unit": ["Phoenix-Sales"], "booked": [Decimal("170166.610000000")]})
    assert "unit booked Phoenix-Sales 170,166.61" in words(reports.table(frame))


def test_recorded_figures_are_read_back_and_neither_they_nor_progress_are_shown():
    output = {reports.RECORD_MIME: {"as_of": "2025-09-14"}, "text/plain": "Recorded: as_of"}
    cell = nbformat.v4.new_code_cell("record()", outputs=[nbformat.v4.new_output("display_data", output)])
    progress = nbformat.v4.new_code_cell("run()", outputs=[nbformat.v4.new_output("stream", text="jobs: 12 rows")])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Week <1>"), progress, cell])
    assert pages.recorded(notebook) == {"as_of": "2025-09-14"}
    page = pages.render_notebook(notebook, sandbox=True)
    assert "<title>Week &lt;1&gt;</title>" in page
    assert "Recorded" not in page
    assert "12 rows" not in page
    assert "Sandbox data" in page


def test_index_lists_what_a_run_did():
    step = {
        "name": "ingest",
        "status": "partial",
        "seconds": 61.0,
        "html": "01_ingest.html",
        "error": "<jobs>",
        "rows": 1200,
    }
    run = {"run_id": "20250914-020000-000", "status": "partial", "sandbox": True, "steps": [step]}
    times = {"started_at": "2025-09-14T02:00:00+00:00", "finished_at": "2025-09-14T02:01:05+00:00"}
    index = pages.render_index([run | times])
    for expected in (
        "Sun 14 Sep 2025 02:00 UTC",
        "1 min 5 s",
        "1,200 rows loaded",
        "1 min 1 s",
        "&lt;jobs&gt;",
        "sandbox data",
    ):
        assert expected in index
    assert 'href="20250914-020000-000/01_ingest.html"' in index
    assert "make nightly" in pages.render_index([])
