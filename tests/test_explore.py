"""The pages that a person opens, home and Explore, in a real browser: what they show is what the tables have."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from browser import MISSING, ON_EVERY_SCREEN, Watched, describe_missing, go, read_address, read_figures
from page_numbers import AMOUNTS, check_report, check_rows, check_to_date, check_weeks, read_cells, read_marts
from playwright.sync_api import Page, expect
from report_numbers import check_charts

from sandbox.server import Sandbox
from sandbox.tenant import LAST_DAY
from stkpi import settings, warehouse
from stkpi.formatting import format_number, format_rounded
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import read_definitions
from stkpi.reconcile.observations import ledger, outcomes
from stkpi.reporting import figures, site
from stkpi.runs import history, home, runner
from stkpi.spreadsheets import protect_cell
from stkpi.warehouse.duckdb import DuckDBWarehouse

KNOWN = "#period=2025-08-18&place=unit%3APhoenix-Sales&kpi=leads"


@pytest.fixture(scope="module")
def runs(built: Path, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pages of the made-up painting company after a night; the settings stay for the module."""
    folder = tmp_path_factory.mktemp("pages")
    own = {"WAREHOUSE": str(built), "AS_OF": LAST_DAY.isoformat()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (sandbox.environment | own).items():
            patch.setenv(name, value)
        explained = {"leads-2": "31 is what you get with status=sold: only jobs with a sold estimate (-65)"}
        site.write_site(folder, "20250914-020000-000", LAST_DAY, explained)
        run = {"run_id": "20250914-020000-000"}
        history.append_event(folder / history.FILE, event="started", sandbox=True, **run)
        history.append_event(folder / history.FILE, event="finished", status="ok", **run)
        home.write_home(folder)
        yield folder


@pytest.fixture(scope="module")
def marts(runs: Path) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Every figure of a week as the tables have it, rounded and exact, by place, period and KPI.

    The company's come from the units' sums, or where a thing is counted once from the fact rows of all units.
    """
    with warehouse.connect(read_only=True) as target:
        units = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
        regions = target.query("SELECT * FROM st_mart_v2.regional_kpis")
        rows = {
            name: target.query(f"SELECT event_date, {column} AS id FROM st_mart_v2.{kpi.fact}")
            for name, kpi in read_catalog().items()
            if (column := kpi["measure"][0].says.get("distinct"))
        }
    found = {}
    for place, column, frame in (("unit:", "business_unit", units), ("region:", "region", regions)):
        for row in frame.to_dict("records"):
            for name, kpi in read_catalog().items():
                key = (f"{place}{row[column]}", str(row["week_start"]), name)
                found[key] = (format_rounded(row[name], kpi.kind), format_number(to_none(row[name]), kpi.kind))
    for week, frame in units.groupby("week_start"):
        for name, kpi in read_catalog().items():
            if name in rows:
                days = pd.to_datetime(rows[name]["event_date"]) - pd.Timestamp(week)
                value = rows[name]["id"][days.dt.days.between(0, 6)].nunique()
            elif kpi.sums:
                part, whole = (frame[column].sum() for column in kpi.sums)
                value = part / whole if whole else None
            else:
                value = frame[name].sum()
            shown = format_rounded(float("nan") if value is None else float(value), kpi.kind)
            found["company", str(week), name] = (shown, format_number(value, kpi.kind))
    return found


def to_none(value: object) -> Any:
    return None if pd.isna(value) else value


# --- what is shown is what the tables have ----------------------------------------------------------------------------


def test_every_figure_of_the_book_is_the_one_of_the_tables(runs, marts):
    with warehouse.connect(read_only=True) as target:
        book = figures.read_book(target, read_definitions(), LAST_DAY)
        units = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
        weeks = figures.read_company_weeks(target, read_definitions(), LAST_DAY)
    assert len(weeks) == len(book.weeks)
    compared = 0
    for place, period, kpi, figure in figures.iterate_figures(book):
        if (place, period.id, kpi) in marts:
            assert (figure.rounded, figure.exact) == marts[place, period.id, kpi], (place, period, kpi)
            compared += 1
    assert compared > 9_000
    for period in book.weeks[:60]:
        week = units[units["week_start"] == period.first]
        company = book.rows["company", period.id]
        assert weeks.loc[str(period.first), "leads"] == company["leads"]
        for kpi in read_catalog().values():
            if kpi.sums:
                part, whole = (week[column].sum() for column in kpi.sums)
                ratio = company[kpi.name]
                assert abs(float(ratio) - float(part) / float(whole)) < 1e-8 if whole else pd.isna(ratio)
            elif kpi.kind == "money":
                assert company[kpi.name] == week[kpi.name].sum()
            else:  # a customer who asks two units is one customer
                assert week[kpi.name].max() <= company[kpi.name] <= week[kpi.name].sum()


def test_home_shows_the_newest_full_week(runs, marts, opened):
    page = opened.open(runs / "index.html")
    shown = read_figures(page)
    assert {period for _, period, _ in shown} == {"2025-09-08"}
    assert len(shown) > 60
    assert len([place for place, _, _ in shown if place == "company"]) == len(read_catalog())
    assert shown == {where: marts[where][0] for where in shown}
    check_tooltips(page, marts)
    expect(page.locator(".trust")).to_contain_text(re.compile(r"\d+ of \d+ of your numbers match ServiceTitan"))
    assert page.locator(".card").count() == len(read_catalog())
    assert "Through Sunday, Sep 14, 2025" in page.inner_text("header")


def test_every_week_and_place_that_can_be_chosen(runs, marts, opened):
    page = opened.open(runs / "explore.html")
    places = page.eval_on_selector_all("#place option", "(all) => all.map((one) => one.value)")
    assert len(places) > 10
    checked = 0
    for period in ("2025-09-08", "2025-08-18", "2024-08-19"):
        for place in places if period == "2025-08-18" else places[:4]:
            go(page, f"#period={period}&place={place}")
            shown = read_figures(page)
            for where, text in shown.items():
                assert text == marts[where][0], where
                checked += 1
            check_tooltips(page, marts)
    assert checked > 500


def check_tooltips(page: Page, marts: dict[tuple[str, str, str], tuple[str, str]]) -> None:
    """A figure that is shown rounded tells the exact one under the pointer."""
    for address, title in page.eval_on_selector_all(
        "main td a[href*='kpi=']", "(all) => all.map((a) => [a.getAttribute('href'), a.title])"
    ):
        rounded, exact = marts[read_address(address)]
        assert title == ("" if rounded == exact else exact), address


def test_notes_the_running_week_and_figures_to_date_are_those_of_the_tables(built, runs, opened, tmp_path):
    """On a Sunday, and on a Thursday: then the newest full week is the one before."""
    with DuckDBWarehouse(built, 0, read_only=True) as target:
        read, first_day = read_marts(target)
    for as_of, monday, folder in ((LAST_DAY, "2025-09-08", runs), (date(2025, 9, 11), "2025-09-01", tmp_path)):
        if folder is tmp_path:
            site.write_site(folder, "20250911-020000-000", as_of)
            home.write_home(folder)
        cells = read_cells(opened.open(folder / "index.html"))
        assert {cell.where[1] for cell in cells} == {monday}
        assert check_weeks(cells, read, first_day) > 50
        page = opened.open(folder / "explore.html", "#period=2025-08-18")
        assert check_weeks(read_cells(page), read, first_day) > 50
        periods = {"month", "month-ago", "year"} | ({"2025-09-08"} if folder is tmp_path else set())
        assert check_to_date(page, read, as_of, first_day, most=3) == periods


@pytest.mark.soak
def test_the_page_of_a_nights_kpis_and_every_place_to_date(healthy, opened, tmp_path, monkeypatch):
    """The tiles, the tables of units with their changes, the weeks of every unit, and Explore on a Wednesday."""
    as_of, spec, folder = date(2025, 9, 10), tmp_path / "spec.yml", tmp_path / "runs"
    monkeypatch.setenv("COMPANY", str(shutil.copytree(settings.load().company, tmp_path / "company")))
    monkeypatch.setenv("AS_OF", str(as_of))
    spec.write_text(
        f"steps:\n  - {{name: kpi_build, notebook: {settings.ROOT / 'notebooks' / '03_kpi_build.ipynb'}}}\n"
    )
    assert runner.run_spec(spec, runs=folder) == 0
    with DuckDBWarehouse(healthy, 0, read_only=True) as target:
        read, first_day = read_marts(target)
    [report] = folder.glob("2*/03_kpi_build.html")
    assert check_report(opened.open(report), read, date(2025, 9, 1)) > 900
    assert check_charts(opened.page, read, date(2025, 9, 1)) > 100
    periods = {"month", "month-ago", "year", "2025-09-08"}
    assert check_to_date(opened.open(folder / "explore.html"), read, as_of, first_day) == periods


@pytest.mark.parametrize(
    "place",
    [
        "unit:Phoenix-Production",
        *(pytest.param(each, marks=pytest.mark.soak) for each in ("company", "unit:Phoenix-Sales", "region:Tucson")),
    ],
)
def test_every_number_of_a_figures_own_page(runs, marts, opened, place):
    """The number, a year ago, the tables, the chart under the pointer, and the rows behind it."""
    page = opened.open(runs / "explore.html", f"#place={place}")
    names = page.eval_on_selector_all("#kpi option", "(all) => all.map((one) => one.value).filter(Boolean)")
    for name in names:
        kpi = read_catalog()[name]
        go(page, f"#period=2025-08-18&place={place}&kpi={name}")
        rounded, exact = marts[place, "2025-08-18", name]
        assert page.inner_text("#value") == exact
        assert f"A year ago (Aug 19 to Aug 25, 2024): {marts[place, '2024-08-19', name][1]}" in page.inner_text("main")
        shown = read_figures(page)
        assert len(shown) >= 13
        assert shown == {where: marts[where][0] for where in shown}
        check_tooltips(page, marts)
        check_chart(page, marts, place, name, kpi.label)
        if kpi.kind == "money" and place.startswith("unit:"):
            assert add_up_rows(page) == exact
        assert rounded in shown.values()


def check_chart(
    page: Page, marts: dict[tuple[str, str, str], tuple[str, str]], place: str, name: str, label: str
) -> None:
    """Point at every week of the chart: its legend says the numbers of the tables."""
    page.locator(".u-over").scroll_into_view_if_needed()
    box = page.locator(".u-over").bounding_box()
    weeks = 13
    for n in range(weeks):
        x = min(max(box["width"] * n / (weeks - 1), 1), box["width"] - 1)
        page.mouse.move(box["x"] + x, box["y"] + box["height"] / 2)
        texts = [page.locator(f".u-legend .u-{each}").all_text_contents() for each in ("label", "value")]
        legend = dict(zip(*texts, strict=True))
        week = pd.Timestamp("2025-08-18") - pd.Timedelta(weeks=weeks - 1 - n)
        before = week - pd.Timedelta(weeks=52)
        assert legend["Week of"].startswith(f"{week:%b} {week.day} to ")
        here = marts[place, str(week.date()), name][0]
        assert here in (legend[label], legend.get("Provisional")), (week, legend)
        assert legend["A year ago"] == marts.get((place, str(before.date()), name), ("—",))[0]


def add_up_rows(page: Page) -> str:
    """The sum of the amounts that the rows show, as money."""
    if page.locator("#rows select").count():
        page.select_option("#rows select", "1000")
    amounts = page.locator("#rows tbody td.number").all_inner_texts()
    return format_number(sum(Decimal(text.replace("$", "").replace(",", "")) for text in amounts), "money")


@pytest.mark.parametrize(
    "period", ["2025-08-18", *(pytest.param(each, marks=pytest.mark.soak) for each in ("2025-09-08", "month", "year"))]
)
def test_the_rows_of_every_figure_add_up_to_it(runs, opened, period):
    """The page says so itself, where they do not."""
    page = opened.open(runs / "explore.html")
    for place in ("company", "unit:Phoenix-Sales", "unit:Phoenix-Production"):
        go(page, f"#period={period}&place={place}")
        for name in page.eval_on_selector_all("#kpi option", "(all) => all.map((one) => one.value).filter(Boolean)"):
            go(page, f"#period={period}&place={place}&kpi={name}")
            assert re.match(r"The ([\d,]+ rows|row) behind it", page.inner_text("#rows h2"))
            assert page.locator("[role=alert]").count() == 0, (period, place, name)


def test_the_parts_of_a_rate_are_those_of_the_table(runs, opened):
    with warehouse.connect(read_only=True) as target:
        rows = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start = DATE '2025-08-18'").set_index(
            "business_unit"
        )
    page = opened.open(runs / "explore.html")
    for name, kpi in read_catalog().items():
        if kpi.sums:
            unit = f"Phoenix-{kpi.division}"
            go(page, f"#period=2025-08-18&place=unit:{unit}&kpi={name}")
            expected = [
                format_number(rows.loc[unit, column], "count" if name == "success_rate" else "money")
                for column in kpi.sums
            ]
            assert re.findall(r"-?\$?[\d,.]+", page.inner_text("#sum")) == [
                each.replace(",", "") if "$" not in each else each for each in expected
            ]


# --- what a person does -----------------------------------------------------------------------------------------------


@ON_EVERY_SCREEN
def test_from_home_to_the_rows_and_back(runs, browser, tmp_path, width, scheme):
    watched = Watched(browser, width=width, scheme=scheme)
    page = watched.open(runs / "index.html")
    assert watched.find_overflow() <= 0
    assert watched.find_small_texts() == []
    assert watched.list_barriers() == []
    page.click("text=Explore: choose a week")
    expect(page.locator("h1")).to_contain_text("Sep 8 to Sep 14, 2025")
    assert watched.find_overflow() <= 0
    assert watched.find_small_texts() == []
    page.select_option("#period", "2025-08-18")
    page.select_option("#place", "unit:Phoenix-Sales")
    expect(page.locator("h1")).to_have_text("Phoenix-Sales: Aug 18 to Aug 24, 2025")
    page.click(".card:has-text('Leads') >> text=96")
    expect(page.locator("#value")).to_have_text("96")
    expect(page.locator("#rows h2")).to_have_text("The 96 rows behind it")
    assert page.locator("#rows tbody tr").count() == 96
    assert "ServiceTitan shows 96: ✓ the same as here" in page.inner_text("main")
    assert "only jobs with a sold estimate" in page.inner_text("main")
    page.click("text=The jobs that make the difference: 66 counted only here")
    assert page.locator(".seen tbody tr").count() == 66
    assert watched.find_overflow() <= 0
    assert watched.find_small_texts() == []
    assert watched.list_barriers() == []
    assert unquote(page.url).endswith("#period=2025-08-18&place=unit:Phoenix-Sales&kpi=leads")
    sort_search_and_save(page, tmp_path)
    link = page.locator("#rows tbody td a").first.get_attribute("href")
    assert re.fullmatch(r"https://go\.servicetitan\.com/#/Job/Index/\d+", link)
    sent = watched.watch(watched.context.new_page())
    sent.goto(page.url)
    expect(sent.locator("#rows h2")).to_have_text("The 96 rows behind it")
    page.go_back()
    expect(page.locator("h1")).to_have_text("Phoenix-Sales: Aug 18 to Aug 24, 2025")
    watched.context.close()
    assert watched.faults == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_in_three_clicks_whether_a_unit_matches_and_if_not_which_jobs(runs, browser, tmp_path, width, scheme):
    """As the owner would: Phoenix-Sales, the number that differs, its jobs. The ledger has one wrong number here."""
    folder = shutil.copytree(runs, tmp_path / "pages")
    [figures_file] = folder.glob("data/*/figures.js")
    text = figures_file.read_text()
    assert text.count('"shown":"31","ours":"96","outcome":"explained"') == 1
    figures_file.write_text(
        text.replace('"shown":"31","ours":"96","outcome":"explained"', '"shown":"31","ours":"96","outcome":"unmatched"')
    )
    watched = Watched(browser, width=width, scheme=scheme)
    page = watched.open(folder / "index.html")
    page.click("tbody th a:text-is('Phoenix-Sales')")
    seen = page.locator(".all-seen")
    expect(seen.locator("tbody tr").first).to_be_visible()  # the numbers are drawn after the page has changed
    matched = seen.locator("td .matched").count()
    expect(seen.locator("summary")).to_have_text(
        f"{matched} of {matched + 1} numbers of Phoenix-Sales match ServiceTitan"
    )
    assert watched.find_overflow() <= 0
    assert watched.list_barriers() == []
    first = seen.locator("tbody tr").first
    assert first.inner_text().split("\t")[1:] == ["31", "96", "✗ differs"]
    first.locator("a").click()
    page.click("text=The jobs that make the difference: 66 counted only here")
    assert page.locator(".seen li.failed tbody tr").count() == 66
    watched.context.close()
    assert watched.faults == []


def test_a_night_of_problems_leaves_the_scorecards_on_the_first_screen(runs, browser, tmp_path):
    """The worst one is told, the others are folded: they open with the keyboard, and on paper."""
    folder = shutil.copytree(runs, tmp_path / "pages")
    found = "1,204 rows of st_raw_v2.invoices_raw are of a job that is not there, in 11 of the last 13 weeks."
    told = {"severity": "critical", "found": found, "remedy": "Read the jobs of these weeks again: FROM, TO."}
    checks = [{"color": color, "title": f"{color} check {n}"} | told for n in range(3) for color in ("yellow", "red")]
    run = folder / "20250914-020000-000"
    run.mkdir()
    (run / "validation.json").write_text(json.dumps({"counts": {"red": 3, "yellow": 3, "green": 90}, "checks": checks}))
    home.write_home(folder)
    watched = Watched(browser)
    watched.page.set_viewport_size({"width": 1280, "height": 800})
    page = watched.open(folder / "index.html")
    edges = page.eval_on_selector_all(".card", "(all) => all.map((card) => card.getBoundingClientRect().bottom)")
    assert len(edges) == len(read_catalog())
    assert max(edges) <= 800
    problems = page.locator(".problems li")
    assert problems.count() >= len(checks)
    assert problems.first.is_visible()
    assert "red check 0" in problems.first.inner_text()
    assert told["remedy"] in problems.first.inner_text()
    assert not any(each.is_visible() for each in problems.all()[1:])
    serious = page.locator(".problems li.failed").count() - 1
    expect(page.locator(".more summary")).to_have_text(f"{problems.count() - 1} more, {serious} of them serious")
    page.emulate_media(media="print")
    assert all(each.is_visible() for each in problems.all())
    page.emulate_media(media="screen")
    page.focus(".more summary")
    page.keyboard.press("Enter")
    assert all(each.is_visible() for each in problems.all())
    assert watched.list_barriers() == []
    watched.context.close()
    assert watched.faults == []


def test_the_numbers_of_servicetitan_are_those_of_the_ledger(runs, opened):
    with warehouse.connect(read_only=True) as target:
        definitions = read_definitions()
        checked = outcomes.check_observations(target, ledger.read_ledger(), definitions)
    expected = sorted(
        (one.observation.title, one.observation.shown, format_number(one.ours, one.observation.entry.kind))
        for one in checked
        if one.outcome in (outcomes.MATCHED, outcomes.UNMATCHED)
    )
    assert len(expected) > 3
    page = opened.open(runs / "explore.html")
    page.click(".all-seen summary")
    rows = page.locator(".all-seen tbody tr").all_inner_texts()
    assert sorted(tuple(row.split("\t")[:3]) for row in rows) == expected
    matched = sum(one.outcome == outcomes.MATCHED for one in checked)
    assert page.inner_text(".all-seen summary").startswith(f"{matched} of {len(expected)} numbers of ")
    assert f"{matched} of {len(expected)} of your numbers match" in opened.open(runs / "index.html").inner_text(
        ".trust"
    )


def sort_search_and_save(page: Page, folder: Path) -> None:
    """Sort the rows by customer, search for one of them, and save them as CSV."""
    names = "(cells) => cells.map((cell) => cell.textContent)"
    page.click("#rows th:has-text('Customer')")
    customers = page.eval_on_selector_all("#rows tbody td:nth-child(2)", names)
    assert customers == sorted(customers, key=str.lower)
    with page.expect_download() as saved:
        page.click("text=Save as CSV")
    file = folder / "saved.csv"
    saved.value.save_as(file)
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")  # Excel reads UTF-8 only with it
    rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines()))
    assert len(rows) == 96
    assert [row["Customer"] for row in rows] == customers
    assert {row["Counts on"][:8] for row in rows} == {"2025-08-"}
    page.fill("#rows input[type=search]", rows[5]["Job"])
    expect(page.locator("#rows tbody tr")).to_have_count(1)
    page.fill("#rows input[type=search]", "")
    expect(page.locator("#rows tbody tr")).to_have_count(96)


def test_rows_of_long_ago_are_not_there_and_the_page_says_so(runs, opened):
    page = opened.open(runs / "explore.html", "#period=2024-12-02&kpi=outstanding_ar")
    page.wait_for_function("document.body.dataset.ready")
    assert page.inner_text("#value").startswith("$")
    assert "The rows of so long ago are in the warehouse only." in page.inner_text("#rows")


def test_what_a_link_names_and_is_not_there(runs, opened):
    page = opened.open(runs / "explore.html", "#period=1999-01-04&place=company")
    expect(page.locator("main")).to_contain_text("The days of this link are not here")
    go(page, "#place=unit:Nowhere")
    expect(page.locator("main")).to_contain_text("There is no unit or region Nowhere")
    go(page, "#place=unit:Phoenix-Production&kpi=leads")
    expect(page.locator("main")).to_contain_text("Phoenix-Production has no Leads")


def test_provisional_figures_are_not_praised_and_the_running_week_says_so_far(runs, opened):
    page = opened.open(runs / "index.html")
    for name in ("GPM", "Warranty %"):
        card = page.locator(".card", has=page.locator(f"span:text-is('{name}')"))
        assert "provisional until Oct 29" in card.inner_text()
        assert card.locator(".good, .bad").count() == 0


def test_a_missing_browser_is_told_once():
    assert describe_missing([f"Skipped: {MISSING}", "Skipped: other"]).startswith(
        "NOT RUN: 1 tests, for there is no Chromium"
    )
    assert describe_missing(["Skipped: other"]) == ""


def read_customers(folder: Path) -> set[str]:
    """The customers' names in the rows of Leads of August 2025."""
    [file] = folder.glob("data/*/fact_leads.2025-08.js")
    packed = re.search(r', "(.+)"\);', file.read_text())[1]
    return set(filter(None, json.loads(gzip.decompress(base64.b64decode(packed)))["customer"]))


TEXTS = [
    "=1+1",
    "-5",
    "-$12.50",
    "+1 (480) 555",
    "@x",
    " =x",
    "\t=1",
    "'=1",
    "|x",
    "%x",
    "\uff1d1",
    "12%",
    "-",
    "O'Neil",
    "",
    "-5\n",
]


def test_the_page_and_the_library_know_the_same_formulas(runs, opened, monkeypatch):
    page = opened.open(runs / "explore.html")
    found = page.evaluate("(texts) => texts.map((text) => new RegExp(book.parts.figures.formula).test(text))", TEXTS)
    assert found == [protect_cell(text) != text for text in TEXTS]
    assert 7 < sum(found) < len(TEXTS)


def test_names_are_initials_on_pages_that_are_shared(runs, tmp_path, monkeypatch):
    names = read_customers(runs)
    assert len(names) > 90
    assert not any("•" in name for name in names)
    monkeypatch.setenv("CI", "true")
    site.write_site(tmp_path, "20250914-020000-000", LAST_DAY)
    shared = read_customers(tmp_path)
    assert all(re.fullmatch(r"\S•••( \S•••)*", name) for name in shared)
    everything = "".join(path.read_text() for path in tmp_path.rglob("figures.js"))
    assert not [name for name in names if name in everything]


@pytest.mark.parametrize("name", AMOUNTS)
def test_every_row_behind_a_figure_is_a_row_of_its_fact(runs, opened, name):
    """Its job, customer, type, status, day, numbers and amounts, and the sum of these."""
    place = f"unit:Phoenix-{read_catalog()[name].division}"
    page = opened.open(runs / "explore.html", f"#period=2025-08-18&place={place}&kpi={name}")
    with warehouse.connect(read_only=True) as target:
        assert check_rows(page, target, name, place, date(2025, 8, 18), date(2025, 8, 24)) > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", AMOUNTS)
def test_every_row_of_the_company_of_a_region_and_of_a_month(runs, opened, name):
    page = opened.open(runs / "explore.html")
    with warehouse.connect(read_only=True) as target:
        for period, place in (("2025-08-18", "company"), ("2025-09-08", "region:Tucson"), ("month", "company")):
            first = LAST_DAY.replace(day=1) if period == "month" else date.fromisoformat(period)
            last = LAST_DAY if period == "month" else first + timedelta(days=6)
            go(page, f"#period={period}&place={place}&kpi={name}")
            count = check_rows(page, target, name, place, first, last)
            assert count or place == "region:Tucson"  # it is small
