"""The loop that the product closes: numbers are noted until they prove a definition, it is adopted, and then every
page, table and answer counts by it; undone, and all is as before. No file is edited by hand.
"""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest

from sandbox import truth
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import __main__, company, settings, warehouse
from stkpi.errors import UserError
from stkpi.kpis.catalog import FILE, read_catalog
from stkpi.kpis.definition import read_definitions
from stkpi.marts import build as marts
from stkpi.reconcile.definitions.evaluate import Period
from stkpi.reconcile.observations import ledger
from stkpi.reconcile.observations import report as ledger_report
from stkpi.runs import runner

WEEK = Period("Phoenix-Sales", date(2025, 8, 18), date(2025, 8, 24))
MOST = 6  # numbers that a person has to read


@pytest.fixture
def folder(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The company folder of the built warehouse, without a number in its ledger."""
    found = Path(shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company"))
    (found / company.OBSERVED).unlink()
    monkeypatch.setenv("COMPANY", str(found))
    return found


def count_completed(store: Store, period: Period) -> int:
    """Leads of a company that counts completed jobs only, by a program that shares nothing with the product's SQL."""
    books = truth.read_books(store, TIME_ZONE)
    rows = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    rollup = {row["business_unit"]: row["rollup"] for row in rows}
    return len(
        {
            job.customer
            for job in books.jobs.values()
            if job.is_lead
            and job.status == "Completed"
            and rollup.get(books.units.get(job.unit, ""), books.units.get(job.unit)) == period.unit
            and period.first <= books.day(job.created) <= period.last
        }
    )


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["stkpi", *words])
    return __main__.main()


def observe(monkeypatch: pytest.MonkeyPatch, period: Period, value: int) -> None:
    days = ("--from", str(period.first), "--to", str(period.last))
    assert run_command(monkeypatch, "observe", "--kpi", "Leads", "--bu", period.unit, *days, "--value", str(value)) == 0


def read_week(kpi: str = "leads") -> int:
    with warehouse.connect() as target:
        found = target.query(
            f"SELECT {kpi} AS value FROM st_mart_v2.kpi_weekly_by_bu"
            " WHERE week_start = @day AND business_unit = 'Phoenix-Sales'",
            day=WEEK.first,
        )
    return int(found["value"][0])


def observe_until_accepted(monkeypatch: pytest.MonkeyPatch, tenant: Store) -> list[Period]:
    """Note what the made-up company's ServiceTitan shows for whatever number is asked for next."""
    read = [WEEK]
    while True:
        observe(monkeypatch, read[-1], count_completed(tenant, read[-1]))
        found = ledger_report.search_kpi("leads")
        if found.finding.verdict == "accepted":
            return read
        assert len(read) < MOST, found.finding.sentence
        assert run_command(monkeypatch, "adopt", "--kpi", "leads") == 2  # not on too little evidence
        assert found.finding.question is not None
        read.append(found.finding.question)


def test_a_definition_is_found_adopted_and_undone_without_an_editor(folder, tenant, monkeypatch, capsys):
    assert read_week() == 96
    assert count_completed(tenant, WEEK) == 73
    read = observe_until_accepted(monkeypatch, tenant)
    capsys.readouterr()
    assert run_command(monkeypatch, "adopt", "--kpi", "leads") == 0
    said = capsys.readouterr().out
    for words in ("Leads", "status completed", "whole history"):
        assert words in said
    [adoption] = company.read_company(settings.load()).definitions["leads"]
    assert adoption.choices == {"status": "completed"}
    assert adoption.evidence and set(adoption.evidence) == {one.id for one in ledger.read_ledger()}

    built = marts.build_marts(LAST_DAY.isoformat())
    assert built.plan.mode == "full"
    assert "another definition is in force for leads" in built.headline
    assert read_week() == 73
    checked = ledger_report.check_ledger()
    assert checked.counts == {"matched": len(read), "unmatched": 0, "open": 0}
    assert ledger_report.show_ways("leads").value == 73
    assert run_command(monkeypatch, "adopt", "--kpi", "leads") == 0
    assert "counted so already" in capsys.readouterr().out

    assert run_command(monkeypatch, "adopt", "--kpi", "Leads", "--undo") == 0
    assert "as expected" in capsys.readouterr().out
    marts.build_marts(LAST_DAY.isoformat())
    assert read_week() == 96
    assert [bool(one.undone_on) for one in company.read_company(settings.load()).definitions["leads"]] == [True]
    # The numbers matched by another definition: that they do not match by this one is told, and is no alarm.
    again = ledger_report.check_ledger()
    assert again.counts["unmatched"] >= len(read) - 1  # one number may be the same by both
    assert again.error is None
    assert run_command(monkeypatch, "adopt", "--kpi", "Leads", "--undo") == 2
    assert "nothing to undo" in capsys.readouterr().err


def test_a_named_definition_is_adopted_and_what_is_none_is_refused_with_the_nearest(folder, monkeypatch, capsys):
    for text, words in (
        ("status=compleet", ("compleet", "did you mean completed")),
        ("statuz=completed", ("statuz", "did you mean status")),
        ("completed", ("DEFINITION=completed", "status=completed")),
    ):
        assert run_command(monkeypatch, "adopt", "--kpi", "leads", "--definition", text) == 2
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
    assert not company.read_company(settings.load()).definitions
    text = "test customers = counted, status=completed"
    assert run_command(monkeypatch, "adopt", "--kpi", "leads", "--definition", text) == 0
    assert read_definitions()["leads"].departures == {"status": "completed", "test_customers": "counted"}
    assert run_command(monkeypatch, "sql", "--kpi", "leads") == 0
    sql = capsys.readouterr().out
    assert "job_status = 'Completed'" in sql
    assert "%test%" not in sql


def test_numbers_that_the_adopted_definition_does_not_give_leave_the_search_an_answer(folder, monkeypatch, capsys):
    observe(monkeypatch, WEEK, 96)
    assert run_command(monkeypatch, "adopt", "--kpi", "Leads", "--definition", "status=completed") == 0
    assert "It gives 0 of the ledger's 1 numbers." in capsys.readouterr().out
    # The tables still count by the definition before: no answer is better than one of two definitions.
    with pytest.raises(UserError, match=r"Leads .* run the nightly or a rebuild first"):
        ledger_report.show_ways("Leads")
    capsys.readouterr()
    observe(monkeypatch, Period(WEEK.unit, date(2025, 8, 11), date(2025, 8, 17)), 1)
    assert "run the nightly or a rebuild first" in capsys.readouterr().out
    marts.build_marts(LAST_DAY.isoformat())
    assert run_command(monkeypatch, "find", "--kpi", "Leads") in (0, 1)
    assert "96" in capsys.readouterr().out


@pytest.mark.soak
def test_numbers_of_two_definitions_are_not_adopted_but_named(folder, tenant, monkeypatch, capsys):
    for value in (31, 96, 73):
        observe(monkeypatch, WEEK, value)
    year_before = Period(WEEK.unit, date(2024, 8, 18), date(2024, 8, 24))
    observe(monkeypatch, year_before, count_completed(tenant, year_before))
    capsys.readouterr()
    assert run_command(monkeypatch, "adopt", "--kpi", "leads") == 2
    said = capsys.readouterr().err
    assert "Not adopted" in said


def test_a_choice_in_company_yml_that_the_catalog_lacks_is_one_sentence(folder):
    (folder / company.FILE).write_text(
        "definitions:\n  leads:\n    - {adopted_on: 2025-09-14, choices: {status: done}}\n"
    )
    with pytest.raises(UserError, match="option of status called done; there are"):
        read_definitions()
    (folder / company.FILE).write_text(
        "definitions:\n  lead:\n    - {adopted_on: 2025-09-14, choices: {status: done}}\n"
    )
    with pytest.raises(UserError, match="lead"):
        read_definitions()


@pytest.mark.parametrize("kpi", ["gpm", "dollars_produced"])
def test_a_kpi_whose_rows_depart_gets_a_fact_of_its_own_and_loses_it_again(folder, kpi, monkeypatch):
    """$ Produced, GPM and Warranty % share a fact as long as they count the same rows."""
    assert run_command(monkeypatch, "adopt", "--kpi", kpi, "--definition", "status=completed") == 0
    marts.build_marts(LAST_DAY.isoformat())
    own = {"gpm": ["fact_gpm"], "dollars_produced": ["fact_gpm", "fact_warranty_rate"]}[kpi]
    with warehouse.connect() as target:
        tables = [f"st_mart_v2.{name}" for name in own]
        assert set(tables) <= target.list_columns("st_mart_v2").keys()
        target.execute("CREATE TABLE st_mart_v2.fact_mine AS SELECT 1 AS a")  # not made by a build: nobody drops it
    assert run_command(monkeypatch, "adopt", "--kpi", kpi, "--undo") == 0
    marts.build_marts(LAST_DAY.isoformat())
    with warehouse.connect() as target:
        left = target.list_columns("st_mart_v2").keys()
    assert not set(tables) & left
    assert "st_mart_v2.fact_mine" in left


@pytest.mark.soak
def test_after_adoption_every_page_of_a_night_says_the_same(folder, tenant, tmp_path, monkeypatch):
    observe_until_accepted(monkeypatch, tenant)
    assert run_command(monkeypatch, "adopt", "--kpi", "leads") == 0
    notebooks, spec = settings.ROOT / "notebooks", tmp_path / "night.yml"
    spec.write_text(
        f"steps:\n  - {{name: kpi_build, notebook: {notebooks}/03_kpi_build.ipynb}}\n"
        f"  - {{name: definitions, notebook: {notebooks}/08_definitions.ipynb, needs: [kpi_build]}}\n"
        f"  - {{name: leads_diagnostics, notebook: {notebooks}/05_leads_diagnostics.ipynb, needs: [kpi_build]}}\n"
    )
    assert runner.run_spec(spec, runs=tmp_path / "runs") == 0
    pages = {page.stem: page.read_text() for page in (tmp_path / "runs").glob("*/0*.html")}
    assert "Leads of Phoenix-Sales, Aug 18 to Aug 24, 2025: 73." in pages["05_leads_diagnostics"]
    assert "status completed (completed jobs only)" in pages["08_definitions"]
    assert read_week() == 73


def test_a_catalog_entry_that_cannot_be_is_refused_with_its_place(tmp_path):

    text, wrong = FILE.read_text(encoding="utf-8"), tmp_path / "catalog.yml"
    for old, new, words in (
        ("    kind: count\n    good: up\n", "    kind: number\n    good: up\n", ("leads", "kind")),
        ("    label: Leads\n", "", ("leads", "label")),
        ("    sums: [closed, opportunities]\n", "", ("success_rate", "sums")),
        ("out: canceled}", "}", ("out",)),
    ):
        wrong.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UserError) as caught:
            read_catalog(wrong)
        assert all(word in str(caught.value) for word in words), caught.value
