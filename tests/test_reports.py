"""The tables and charts of the KPI page, and the pages themselves, on frames small enough to check by hand."""

import base64
import re
from datetime import date
from decimal import Decimal

import nbformat
import pandas as pd
import pytest
from IPython.display import HTML

from stkpi.formatting import format_rounded
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import choose_definitions
from stkpi.kpis.sql import table_columns
from stkpi.reporting import charts, pages, tables, weeks
from stkpi.reporting.record import RECORD_MIME

AUG_11, AUG_18, AUG_25 = date(2025, 8, 11), date(2025, 8, 18), date(2025, 8, 25)
DEFINITIONS = choose_definitions({})
KPIS = read_catalog()
LEADS, SUCCESS, BOOKED = KPIS["leads"], KPIS["success_rate"], KPIS["total_booked"]
GPM, WARRANTY = KPIS["gpm"], KPIS["warranty_rate"]
COLUMNS = {column.name: column.is_ratio for d in DEFINITIONS.values() for column in table_columns(d)}
NONE = {name: None if is_ratio else Decimal(0) for name, is_ratio in COLUMNS.items()} | {"is_provisional": False}


def row(week: date, unit: str, division: str | None, **numbers: object) -> dict:
    """A row of the weekly table, with its ratios."""
    found = NONE | {"week_start": week, "business_unit": unit, "division": division} | numbers
    for kpi in KPIS.values():
        if kpi.sums and found[kpi.sums[1]]:
            found[kpi.name] = Decimal(found[kpi.sums[0]]) / Decimal(found[kpi.sums[1]])
    return found


def sales(week: date, unit: str, leads: int, closed: int, opportunities: int) -> dict:
    """A row of a Sales unit."""
    return row(week, unit, "Sales", leads=leads, closed=closed, opportunities=opportunities)


def production(week: date, unit: str, produced: int, labor: int, warranty: int, *, provisional: bool = False) -> dict:
    """A row of a Production unit."""
    money = {"dollars_produced": produced, "gross_margin": produced - labor, "gross_margin_base": produced}
    money |= {"warranty_cost": warranty, "warranty_base": produced}
    numbers = {name: Decimal(amount) for name, amount in money.items()}
    return row(week, unit, "Production", is_provisional=provisional, **numbers)


ROWS = [
    sales(AUG_18, "Phoenix-Sales", 96, 31, 78),
    sales(AUG_18, "Tucson-Sales", 40, 9, 22),
    sales(AUG_11, "Phoenix-Sales", 91, 30, 80),
    sales(AUG_11, "Tucson-Sales", 44, 10, 20),
    production(AUG_18, "Phoenix-Production", 100_000, 40_000, 2_000),
    production(AUG_18, "Tucson-Production", 300_000, 180_000, 12_000),
    sales(AUG_25, "Phoenix-Sales", 5, 1, 4),
]


def full_weeks(rows: list[dict], as_of: date = date(2025, 8, 26)) -> pd.DataFrame:
    """The full weeks of some rows."""
    return tables.select_full_weeks(pd.DataFrame(rows), as_of)


def total(weeks: pd.DataFrame) -> pd.DataFrame:
    """The company's weeks, of rows whose customers ask one unit each."""
    columns = [column for kpi in KPIS.values() for column in kpi.sums or (kpi.name,)]
    grouped = weeks.groupby("week_start")
    found = grouped[list(dict.fromkeys(columns))].sum()
    for kpi in KPIS.values():
        if kpi.sums:
            part, whole = kpi.sums
            found[kpi.name] = found[part] / found[whole].where(found[whole] != 0)
    return found.assign(is_provisional=grouped["is_provisional"].any())


@pytest.fixture
def newest():
    return full_weeks(ROWS)


@pytest.fixture
def unfinished():
    """Two weeks of one unit whose labor still arrives: GPM is 90% after 60%."""
    return full_weeks(
        [
            production(AUG_11, "Phoenix-Production", 100_000, 40_000, 9_000),
            production(AUG_18, "Phoenix-Production", 100_000, 10_000, 0, provisional=True),
        ]
    )


def words(fragment: HTML) -> str:
    """The text of an HTML fragment."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", fragment.data, flags=re.DOTALL))


def captions(fragment: HTML) -> list[str]:
    """The titles of the charts."""
    return re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", fragment.data)


# --- weeks ------------------------------------------------------------------------------------------------------------


def test_a_running_week_is_left_out_and_a_week_counts_from_its_sunday(newest):
    assert newest["week_start"].max() == pd.Timestamp(AUG_18)
    assert len(full_weeks(ROWS[:1], as_of=date(2025, 8, 24))) == 1
    assert len(full_weeks(ROWS[:1], as_of=date(2025, 8, 23))) == 0


def test_provisional_weeks_do_not_say_what_is_usual():
    values = pd.Series([0.6, 0.6, 0.9, 0.95])
    assert weeks.compute_usual(values, pd.Series([False, False, True, True])) == pytest.approx(0.6)


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
def test_numbers_read_as_a_manager_writes_them(value, kind, expected):
    assert format_rounded(value, kind) == expected


@pytest.mark.parametrize(
    ("kpi", "now", "before", "expected"),
    [
        (LEADS, 96, 91, ("+5", "good")),
        (LEADS, 91, 91, ("no change", "flat")),
        (BOOKED, 150_000, 200_000, ("-25%", "bad")),
        (BOOKED, 200_600, 200_000, ("+0.3%", "good")),
        (BOOKED, 200_010, 200_000, ("no change", "flat")),
        (BOOKED, 150_000, 0, ("from $0 to $150,000", "good")),
        (BOOKED, 84, 2, ("from $2 to $84", "good")),  # and not +4100%
        (BOOKED, 50, -100, ("from -$100 to $50", "good")),
        (BOOKED, 0, 0, ("no change", "flat")),
        (GPM, 0.55, 0.60, ("-5.0 pt", "bad")),
        (WARRANTY, 0.02, 0.05, ("-3.0 pt", "good")),
        (GPM, float("nan"), 0.60, ("", "flat")),
    ],
)
def test_a_change_says_whether_it_is_welcome(kpi, now, before, expected):
    assert weeks.describe_change(now, before, kpi) == expected


# --- tables -----------------------------------------------------------------------------------------------------------


def test_tiles_name_the_week_and_every_kpi(newest):
    fragment = tables.render_tiles(total(newest), DEFINITIONS)
    text = words(fragment)
    assert "The company, Aug 18 to Aug 24, 2025" in text
    assert "Leads 136 +1 " in text
    assert "Success Rate 40.0% no change" in text
    assert "GPM 45.0% " in text
    assert all(kpi.label in text for kpi in KPIS.values())
    assert f'title="{LEADS.sentence}"' in fragment.data
    assert "adopted" not in text


def test_tiles_name_the_kpis_that_count_by_an_adopted_definition(newest):
    text = words(tables.render_tiles(total(newest), choose_definitions({"leads": {"status": "completed"}})))
    assert "adopted: Leads: status completed (completed jobs only)." in text


def test_a_company_without_a_full_week_still_has_a_page():
    nothing = full_weeks(ROWS, as_of=date(2025, 8, 12))
    assert "no full week yet" in words(tables.render_tiles(total(nothing), DEFINITIONS))
    for render in (tables.render_units_tables, tables.render_history, charts.render_trends, charts.render_unit_charts):
        assert "nan" not in words(render(nothing, DEFINITIONS))


def test_units_have_the_kpis_of_their_division(newest):
    text = words(tables.render_units_tables(newest, DEFINITIONS))
    sold, produced = text.split("Production units, ")
    assert "Sales units, Aug 18 to Aug 24, 2025" in sold
    assert "Unit Leads Estimates Scheduled Estimates Success Rate Total Booked Phoenix-Sales 96 +5" in sold
    assert "Phoenix-Production" not in sold
    assert "Phoenix-Production $100,000" in produced
    assert "-Sales" not in produced


BOTH = row(
    AUG_18, "Yuma", None, leads=7, closed=1, opportunities=4, dollars_produced=Decimal(900), gross_margin=Decimal(450),
    gross_margin_base=Decimal(900), warranty_base=Decimal(900),
)  # fmt: skip


def test_a_unit_that_sells_and_produces_is_in_both_tables():
    idle = row(AUG_18, "Warehouse", "Both")
    text = words(tables.render_units_tables(full_weeks([*ROWS, BOTH, idle]), DEFINITIONS))
    sold, produced = text.split("Production units, ")
    assert "Yuma 7 " in sold
    assert "Yuma $900 50.0%" in produced
    assert "Warehouse" not in text  # it never has a number
    assert "Warehouse" not in words(tables.render_history(full_weeks([*ROWS, BOTH, idle]), DEFINITIONS))


def test_units_that_all_sell_and_produce_have_one_table_with_every_kpi():
    text = words(tables.render_units_tables(full_weeks([BOTH]), DEFINITIONS))
    assert "Sales and production units, Aug 18 to Aug 24, 2025" in text
    labels = " ".join(kpi.label for kpi in KPIS.values())
    assert f"Unit {labels} Yuma 7 0 0 25.0% $0 $900 50.0% 0.0%" in text


def test_a_provisional_number_is_gray_until_its_day_and_is_not_praised(unfinished):
    for fragment in (
        tables.render_tiles(total(unfinished), DEFINITIONS),
        tables.render_units_tables(unfinished, DEFINITIONS),
    ):
        assert "until Oct 8" in words(fragment)  # 45 days after Aug 24
        assert "pt" not in words(fragment)  # neither +30.0 pt of GPM nor -9.0 pt of Warranty %
        assert "$100,000 no change" in words(fragment)  # what was produced is final
        assert not re.search(r'class="[^"]*(good|bad)', fragment.data)
    history = tables.render_history(unfinished, DEFINITIONS, 2).data
    assert re.findall(r'title="provisional">([^<]+)<', history) == ["90.0%", "0.0%"]


def test_history_goes_back_as_many_weeks_as_asked(newest):
    assert "Aug 11, 2025 91 0 0 37.5% $0" in words(tables.render_history(newest, DEFINITIONS, 2))
    assert "Aug 11" not in words(tables.render_history(newest, DEFINITIONS, 1))


def test_any_frame_reads_as_a_table():
    frame = pd.DataFrame({"entity": ["jobs", "<b>"], "fetched": [41_000, 0], "seconds": [1.25, None]})
    fragment = tables.render_table(frame)
    assert "entity fetched seconds jobs 41,000 1.2 &lt;b&gt; 0 —" in words(fragment)


def test_money_in_a_table_has_its_cents():
    frame = pd.DataFrame({"unit": ["Phoenix-Sales"], "booked": [Decimal("170166.610000000")]})
    assert "unit booked Phoenix-Sales 170,166.61" in words(tables.render_table(frame))


def test_checks_that_are_not_green_come_with_their_remedy():
    columns = ["color", "severity", "check", "found", "remedy"]
    red, green = ["red", "critical", "Links", "jobs: 7", "Read again."], ["green", "warning", "Keys", "0", "Delete."]
    text = words(tables.render_checks(pd.DataFrame([red, green], columns=columns)))
    assert "1 red 0 yellow 1 green" in text
    assert "Links critical jobs: 7 Read again." in text
    assert "Delete." not in text
    assert "All checks passed" in words(tables.render_checks(pd.DataFrame([green], columns=columns)))


# --- charts -----------------------------------------------------------------------------------------------------------


def test_chart_titles_say_the_answer(newest):
    assert "Leads: 136, 1 above usual" in captions(charts.render_trends(total(newest), DEFINITIONS))
    titles = captions(charts.render_unit_charts(newest, DEFINITIONS))
    assert "Leads: Phoenix-Sales is highest with 96" in titles
    assert "Warranty %: Phoenix-Production is lowest with 2.0%" in titles


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([8, 8, 3], "A and B tie for highest with 8"),
        ([8, 8, 8, 3], "3 units tie for highest with 8"),
        ([0, 0, 0], "0 in every unit"),
        ([8], "8 in A"),
    ],
)
def test_ties_are_ties(values, expected):
    assert charts.describe_best(pd.Series(values, index=list("ABCD")[: len(values)]), LEADS) == expected


def test_what_shows_the_same_number_ties():
    assert "tie" in charts.describe_best(pd.Series([0.39741, 0.39738, 0.1], index=list("ABC")), SUCCESS)


def test_charts_say_what_is_provisional_and_name_no_best_unit(unfinished):
    assert "GPM: 90.0%, provisional until Oct 8" in captions(charts.render_trends(total(unfinished), DEFINITIONS))
    titles = captions(charts.render_unit_charts(unfinished, DEFINITIONS))
    assert "GPM: provisional until Oct 8" in titles
    assert "$ Produced: $100,000 in Phoenix-Production" in titles


def test_charts_are_drawn_the_same_each_time(newest):
    first = re.findall(r"base64,([^\"]+)", charts.render_unit_charts(newest, DEFINITIONS).data)
    assert first == re.findall(r"base64,([^\"]+)", charts.render_unit_charts(newest, DEFINITIONS).data)
    assert ">Tucson-Sales</text>" in base64.b64decode(first[0]).decode()


def test_a_first_week_has_no_change_and_still_a_page(newest):
    only = newest[newest["week_start"] == pd.Timestamp(AUG_18)]
    assert "Leads 136 Estimates" in words(tables.render_tiles(total(only), DEFINITIONS))
    assert "Leads: 136" in captions(charts.render_trends(total(only), DEFINITIONS))


# --- pages ------------------------------------------------------------------------------------------------------------


def test_what_a_company_does_not_have_leaves_no_empty_chart_and_no_empty_table():
    """The only week has no job with an invoice: GPM and Warranty % are no numbers."""
    page = charts.render_trends(total(full_weeks([sales(AUG_18, "Blue", 3, 0, 0)])), DEFINITIONS).data
    titles = re.findall(r"<figcaption[^>]*>([^<]*)", page)
    assert [title.partition(":")[0] for title in titles] == [
        "Leads", "Estimates Scheduled", "Estimates", "Total Booked", "$ Produced", "Future Bookings", "$ Collected",
        "Outstanding A/R",
    ]  # fmt: skip
    drawn = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1]).decode()
    assert "Aug" in drawn
    assert not re.search(r">(19|20)\d\d<", drawn)
    assert (
        charts.render_bars(pd.Series(dtype=int), "No invoice lacks its job.").data == "<p>No invoice lacks its job.</p>"
    )
    assert "None." in tables.render_table(pd.DataFrame(columns=["seen"])).data


def test_what_is_recorded_is_read_back_and_neither_it_nor_progress_is_shown():
    output = {RECORD_MIME: {"as_of": "2025-09-14"}, "text/plain": "Recorded: as_of"}
    cell = nbformat.v4.new_code_cell("record()", outputs=[nbformat.v4.new_output("display_data", output)])
    progress = nbformat.v4.new_code_cell("run()", outputs=[nbformat.v4.new_output("stream", text="jobs: 12 rows")])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Week <1>"), progress, cell])
    assert pages.read_recorded(notebook) == {"as_of": "2025-09-14"}
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
        "Sun, Sep 14, 2025 02:00 UTC",
        "1 min 5 s",
        "1,200 rows loaded",
        "1 min 1 s",
        "&lt;jobs&gt;",
        "made-up data",
    ):
        assert expected in index
    assert 'href="20250914-020000-000/01_ingest.html"' in index
    assert "No runs yet" in pages.render_index([])
