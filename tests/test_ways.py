"""Every other way to count, on the known case of the made-up company, which is the same at every size and seed."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd
import pytest
import yaml

from stkpi import settings
from stkpi.errors import UserError
from stkpi.reconcile.observations import report
from stkpi.runs import runner

WEEK = ("Phoenix-Sales", "2025-08-18", "2025-08-24")
NOTEBOOKS = settings.ROOT / "notebooks"


@pytest.fixture
def leads(healthy):
    """Leads of the week that the ledger of the made-up company is about: nothing has to be asked for."""
    return report.show_ways("Leads")


def test_the_known_case_is_96_and_31_124_and_111_have_a_reason_each(leads):
    assert leads.value == 96
    assert "Phoenix-Sales, Aug 18 to Aug 24, 2025: 96" in leads.headline
    why = report.explain_seen(leads).set_index("seen")["how it comes about"]
    assert list(why.index) == ["96", "31", "124", "111"]
    assert "definition" in why["96"]
    assert "status=sold" in why["31"] and "(-65)" in why["31"]
    assert "shift=year" in why["124"] and "(+28)" in why["124"]
    assert "status: completed jobs only (-18)" in why["111"]
    assert "the same dates of the year before (+33)" in why["111"]


def test_every_other_way_to_count_the_known_week(leads):
    numbers = leads.table.set_index("definition")["number"]
    # One customer was merged into another of the week; two jobs are of test customers, two leads of the commercial
    # unit and three of the retired one; five jobs are consultations.
    assert numbers["measure=rows"] == "97"
    assert (numbers["measure=merged_customers"], numbers["test_customers=counted"]) == ("95", "98")
    assert (numbers["segment=residential"], numbers["rollup=exact"], numbers["job_type=any"]) == ("94", "91", "101")
    assert (numbers["status=sold"], numbers["status=completed"], numbers["shift=year"]) == ("31", "73", "124")
    # By UTC the Sunday night before comes in, and the week's own Sunday night goes.
    assert numbers["zone=utc"] == "96"
    assert numbers.iloc[0] == "96"
    assert numbers.index[0] == "as expected"
    assert len(numbers) == 1 + sum(len(d.options) - 1 for d in leads.definition.kpi.dimensions)


def test_the_steps_from_every_job_of_the_days_to_the_leads(leads):
    left = leads.funnel.set_index("step")["rows left"]
    assert left[["unit", "job type", "test customers"]].to_dict() == {"unit": 104, "job type": 99, "test customers": 97}
    assert len(leads.rows) == 97
    assert leads.rows["customer_id"].nunique() == 96
    assert leads.rows["customer_name"].dropna().str.fullmatch(r"(\S•••)( \S•••)*").all()
    assert report.show_ways("Leads", *WEEK, names=True).rows["customer_name"].str.contains("[a-z]", na=False).any()


def test_a_sale_of_the_evening_is_on_the_next_day_by_utc(healthy):
    monday = report.show_ways("Total Booked", "Phoenix-Sales", "2025-08-18", "2025-08-18")
    # 19,980.08 - 3,072.31 (sold at 18:02) - 12,239.70 (sold at 20:30) = 4,668.07
    assert monday.days.values.tolist() == [["Mon Aug 18", "$19,980.08", "$4,668.07"]]
    assert monday.table.set_index("definition").at["zone=utc", "difference"] == "-$15,312.01"


def test_total_booked_of_the_known_week_with_and_without(healthy):
    week = report.show_ways("Total Booked", *WEEK)
    numbers = week.table.set_index("definition")["number"]
    assert (numbers["as expected"], numbers["segment=residential"], numbers["rollup=exact"]) == (
        "$170,166.61", "$164,376.33", "$151,096.69"
    )  # fmt: skip
    assert week.rows["amount"].sum() == Decimal("170166.61")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Leads", "Phenix-Sales"), ["Phenix-Sales", "Phoenix-Sales"]),
        (("Leads", "", "18.8.2025"), ["first_day=18.8.2025"]),
        (("Leads", "", "2025-08-24", "2025-08-18"), ["swap"]),
        (("Leeds",), ["Leeds", "leads"]),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(healthy, arguments, words):
    with pytest.raises(UserError) as caught:
        report.show_ways(*arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_numbers_that_are_none_are_one_sentence(leads):
    with pytest.raises(UserError, match="31 and 124"):
        report.explain_seen(leads, "31 and 124")


def test_a_company_without_a_ledger_sees_its_largest_unit_and_newest_week(healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANY", str(tmp_path / "company"))
    found = report.show_ways("Outstanding A/R")
    assert (str(found.period.first), str(found.period.last)) == ("2025-09-08", "2025-09-14")
    assert report.explain_seen(found).empty


def test_before_the_first_build_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match="no KPI tables yet"):
        report.show_ways("Leads")


@pytest.mark.soak
def test_the_pages_of_a_run_and_the_files_beside_them(healthy, tmp_path):
    week = {"business_unit": "Phoenix-Sales", "first_day": "2025-08-18", "last_day": "2025-08-24"}
    steps = [
        {
            "name": name,
            "notebook": str(NOTEBOOKS / f"{number}_{name}.ipynb"),
            "parameters": week if number == "06" else {},
        }
        for number, name in (("02", "invoice_repair"), ("05", "leads_diagnostics"), ("06", "booked_diagnostics"))
    ]
    spec = tmp_path / "spec.yml"
    spec.write_text(yaml.safe_dump({"steps": steps}))
    assert runner.run_spec(spec, runs=tmp_path / "runs") == 0
    [folder] = (tmp_path / "runs").glob("2*")
    page = (folder / "05_leads_diagnostics.html").read_text()
    for words in ("Aug 18 to Aug 24, 2025: 96", "status=sold", "shift=year", 'href="fact_leads.csv"'):
        assert words in page
    assert len(pd.read_csv(folder / "fact_leads.csv")) == 97
    assert pd.read_csv(folder / "fact_booked.csv")["amount"].sum() > 0
