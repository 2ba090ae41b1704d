"""The first night of a company that nobody has described: the hvac company, with no folder of its own. Nothing asks a
question, no figure is empty, and the figures are its truth by the units that were proposed.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from browser import ON_EVERY_SCREEN, Watched, go, read_figures, start_browser
from page_numbers import AMOUNTS, check_report, check_rows, check_to_date, check_weeks, read_cells, read_marts
from report_numbers import check_definitions, check_validation, check_ways, connect, read_strong

from sandbox import truth
from sandbox.server import Sandbox
from sandbox.store import Store
from sandbox.tenant import LAST_DAY
from sandbox.truth import JobTypeRules
from stkpi import company, settings, warehouse
from stkpi.formatting import format_rounded
from stkpi.kpis.catalog import read_catalog
from stkpi.runs import runner


@pytest.fixture(scope="module")
def night(hvac: Sandbox, tmp_path_factory: pytest.TempPathFactory):
    """The folder of the first night, whose settings stay for the module."""
    folder = tmp_path_factory.mktemp("second")
    own = {"WAREHOUSE": folder / "warehouse.duckdb", "COMPANY": folder / "company", "AS_OF": LAST_DAY.isoformat()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (hvac.environment | own).items():
            patch.setenv(name, str(value))
        assert runner.run_spec(settings.ROOT / "notebooks" / "nightly.yml", runs=folder / "runs") == 0
        yield next((folder / "runs").glob("2*"))


def test_the_first_night_is_good_and_no_page_tells_of_another_company(night: Path):
    summary = json.loads((night / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert summary["checks"]["red"] == 0
    pages = {page.name: page.read_text() for page in [*night.glob("*.html"), *night.parent.glob("*.html")]}
    of_steps = {Path(step["html"]).name for step in summary["steps"]}
    assert pages.keys() == of_steps | {"index.html", "changes.html"}
    for name, page in pages.items():
        text = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
        for word in ("Phoenix", "Desert Sun", "Color Studio", "1970", "NaN", ">nan<"):
            assert word not in text, (name, word)


def test_every_figure_is_the_truth_by_the_units_as_proposed(night: Path, hvac_tenant: Store):
    config = settings.load()
    units = company.read_table(config.company / company.UNITS, company.COLUMNS[company.UNITS])
    listed = company.read_table(config.company / company.JOB_TYPE_RULES, company.COLUMNS[company.JOB_TYPE_RULES])
    by_rule = {
        rule: frozenset(row["job_type"] for row in listed if row["rule"] == rule)
        for rule in ("excluded_from_production", "warranty")
    }
    rules = JobTypeRules(by_rule["excluded_from_production"], by_rule["warranty"])
    expected = truth.compute_weekly_kpis(hvac_tenant, units, config.time_zone, LAST_DAY, rules)
    with warehouse.connect(read_only=True) as target:
        rows = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu").to_dict("records")
    found = {(row["business_unit"], row["week_start"]): row for row in rows}
    assert found.keys() == expected.keys()
    for where, kpis in expected.items():
        for name, value in kpis.items():
            ours = found[where][name]
            if value is None or pd.isna(ours):
                assert value is None and pd.isna(ours), (where, name, value, ours)
            else:
                assert abs(Fraction(value) - Fraction(ours)) <= Fraction(1, 10**9), (where, name, value, ours)
    for name in read_catalog():
        assert any(row[name] for row in rows if not pd.isna(row[name])), name


def test_what_was_guessed_is_said(night: Path):
    folder = settings.load().company
    rows = company.read_table(folder / company.UNITS, (*company.COLUMNS[company.UNITS], company.GUESS))
    assert {row["division"] for row in rows} == {"Both"}  # each of them sells and does its work
    assert all(row[company.GUESS] for row in rows)
    reports = company.read_company(settings.load()).reports
    assert reports["leads"].parameters["Filter by"] == "Job Creation Date"
    page = (night / "03_kpi_build.html").read_text()
    assert "are guesses until you confirm them" in page
    assert re.search(r"Guesses in \S+: \d+\.", (night.parent / "index.html").read_text())
    assert "O&#39;Brien Heating &amp; Air" in page or "O'Brien Heating &amp; Air" in page


def test_its_pages_in_a_browser(night: Path):
    with warehouse.connect(read_only=True) as target:
        read, first_day = read_marts(target)
        rows = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu").to_dict("records")
    expected = {
        (f"unit:{row['business_unit']}", str(row["week_start"]), name): format_rounded(row[name], kpi.kind)
        for row in rows
        for name, kpi in read_catalog().items()
    }
    with start_browser() as browser:
        watched = Watched(browser)
        page = watched.open(night.parent / "index.html")
        shown = {where: text for where, text in read_figures(page).items() if where in expected}
        assert len(shown) > 30
        assert shown == {where: expected[where] for where in shown}
        assert check_weeks(read_cells(page), read, first_day) > 30
        assert watched.find_overflow() <= 0
        assert watched.list_barriers() == []
        # From home to the rows of a unit: the largest number of its first column.
        page.click('tbody tr:has-text("O\'Brien") td:nth-child(2) a >> nth=0')
        page.wait_for_function("document.body.dataset.ready")
        number = page.inner_text("#value")
        assert page.inner_text("#rows h2").startswith(f"The {number} rows" if number != "1" else "The row")
        assert page.locator("#rows tbody tr").count() == int(number)
        for place in page.eval_on_selector_all("#place option", "(all) => all.map((one) => one.value)"):
            go(page, f"#place={quote(place)}&kpi=")
            shown = {where: text for where, text in read_figures(page).items() if where in expected}
            assert shown == {where: expected[where] for where in shown}
            check_weeks(read_cells(page), read, first_day)
        assert {"month", "year"} < check_to_date(page, read, LAST_DAY, first_day)
        assert watched.list_barriers() == []
        page = watched.open(night / "03_kpi_build.html")
        assert check_report(page, read, LAST_DAY - timedelta(days=6)) > 800
        assert watched.faults == []


@pytest.mark.soak
def test_the_reports_of_its_night_and_the_rows_behind_its_figures(night: Path):
    """Every unit of this company sells and produces, and nobody has noted a number of ServiceTitan."""
    with warehouse.connect(read_only=True) as target:
        read, _ = read_marts(target)
        monday = LAST_DAY - timedelta(days=6)
        with start_browser() as browser:
            page = Watched(browser).open(night.parent / "explore.html")
            for name in AMOUNTS:
                go(page, f"#period={monday}&place=company&kpi={name}")
                assert check_rows(page, target, name, "company", monday, LAST_DAY) > 0
    with connect(settings.load().warehouse) as db, start_browser() as browser:
        watched = Watched(browser)
        assert check_validation(watched.open(night / "04_validate.html"), db, read, LAST_DAY) > 300
        for name, file in (("leads", "05_leads_diagnostics"), ("total_booked", "06_booked_diagnostics")):
            page, kpi = watched.open(night / f"{file}.html"), read_catalog()[name]
            unit = read_strong(page)[0].removeprefix(f"{kpi.label} of ").partition(", Sep")[0]
            assert check_ways(page, db, kpi, unit, monday, LAST_DAY) > 75
        assert check_definitions(watched.open(night / "08_definitions.html"), db, []) == 0
        assert watched.faults == []


@ON_EVERY_SCREEN
def test_its_pages_on_every_screen(night: Path, width: int, scheme: str):
    """Nothing is cut off, nothing is small print, and axe finds nothing that keeps people out."""
    with start_browser() as browser:
        watched = Watched(browser, width=width, scheme=scheme)
        for page in (night.parent / "index.html", night.parent / "changes.html", *sorted(night.glob("0*.html"))):
            watched.open(page)
            assert (watched.find_overflow(), watched.list_barriers()) == (0, []), page.name
        page = watched.open(night.parent / "explore.html")
        for kpi in ("", "gpm"):
            go(page, f"#place=company&kpi={kpi}")
            assert (watched.find_overflow(), watched.find_small_texts(), watched.list_barriers()) == (0, [], []), kpi
        assert watched.faults == []
