"""The owner's saved reports over the Reporting API: described, asked, run, and read by the night, against the truth."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
import requests

from sandbox import truth
from sandbox.hvac import HVAC
from sandbox.painting import PAINTING
from sandbox.reports import DATE_TYPES
from sandbox.server import Sandbox
from sandbox.store import Store
from sandbox.tenant import LAST_DAY
from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import read_definitions
from stkpi.marts import build as marts
from stkpi.proposal import folder as proposal
from stkpi.reconcile import command as reconcile
from stkpi.reconcile.observations import fetch, outcomes
from stkpi.reconcile.observations import report as night
from stkpi.reconcile.observations.ledger import API, Observation
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.reports import Reports, split_by_month

MONDAY, SUNDAY = date(2025, 9, 8), date(2025, 9, 14)
LEADS = "report:marketing/1011"
PAID, OWED = "report:accounting/1016", "report:accounting/1017"
SALES, REPS, COSTS = "report:business-unit-dashboard/1012", "report:technician-dashboard/1013", "report:operations/1014"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The company's folder, as the made-up painting company has it, with a ledger of its own that is empty."""
    folder = Path(shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company"))
    (folder / company.OBSERVED).unlink()
    monkeypatch.setenv("COMPANY", str(folder))
    monkeypatch.setenv("ST_REPORT_MINUTES", "10")
    return folder


@pytest.fixture
def save(own: Path) -> Callable[[str], None]:
    """`save("leads: {…}")` makes it the only saved report of company.yml."""
    return lambda line: (own / company.FILE).write_text(f"reports:\n  {line}\n") and None


@pytest.fixture
def reports(healthy: Path) -> Reports:
    return Reports(Client(settings.load()))


# --- what a report asks -----------------------------------------------------------------------------------------------


def test_a_report_is_found_by_its_name_and_columns_with_one_label_by_theirs(reports: Reports):
    named = reports.describe("report:marketing/*leads* - api")
    assert (named.id, named.modified_on[:10]) == ("1011", "2025-08-01")
    assert [label for label in named.columns if label in ("Campaign", "JobType", "Job Type")] == ["Campaign", "JobType"]
    assert reports.describe(SALES).columns[0] == "Business Unit"
    assert reports.describe(REPS).columns[0] == "Technician"
    with pytest.raises(UserError, match=r"category marketing has no report Lead; it has Leads, \*Leads\* - API\.$"):
        reports.describe("report:marketing/Lead")


def test_labels_mean_the_values_that_are_looked_up(reports: Reports, hvac: Sandbox, monkeypatch: pytest.MonkeyPatch):
    chosen = {"filter by": "Job creation date", "Business Unit": ["Yuma-Sales", "Mesa-Sales"]}
    values = reports.choose_values(reports.describe(LEADS), MONDAY, SUNDAY, chosen=chosen)
    ids = {unit.name: unit.id for unit in PAINTING.units}
    assert values == {
        "From": "2025-09-08",
        "To": "2025-09-14",
        "DateType": list(DATE_TYPES).index("Job Creation Date"),
        "BusinessUnitId": [ids["Yuma-Sales"], ids["Mesa-Sales"]],
    }
    chosen = {"Job Type": "Interior Paint", "Include Inactive Technicians": "yes"}
    values = reports.choose_values(reports.describe(REPS), MONDAY, SUNDAY, [1001], chosen)
    assert values["IncludeInactive"] is True
    assert (values["JobTypes"], values["BusinessUnitId"]) == (2011, [1001])
    for name, value in hvac.environment.items():
        monkeypatch.setenv(name, value)
    other = Reports(Client(settings.load()))
    leads = other.describe("report:marketing/*Leads* - API")
    value = other.choose_values(leads, MONDAY, SUNDAY, chosen={"Filter by": "Job Creation Date"})["DateType"]
    assert value == sorted(DATE_TYPES).index("Job Creation Date") != list(DATE_TYPES).index("Job Creation Date")


@pytest.mark.parametrize(
    ("reference", "chosen", "words"),
    [
        (LEADS, {}, r"wants Filter by, .* it can be Invoice Date, Job Completion Date, "),
        (LEADS, {"Filter by": "Created"}, "Filter by cannot be Created, .* it can be Invoice Date"),
        (LEADS, {"Date Type": "Invoice Date"}, "no parameter Date Type, .* it has Filter by, From"),
        (LEADS, {"Filter by": ["Invoice Date", "Job Start Date"]}, "takes one value, and company.yml gives 2"),
        (SALES, {"Include Inactive": "maybe"}, "Include Inactive cannot be maybe, .* true or false"),
    ],
)  # fmt: skip
def test_what_a_report_cannot_be_asked_is_one_sentence(reports: Reports, reference: str, chosen: dict, words: str):
    with pytest.raises(UserError, match=words):
        reports.choose_values(reports.describe(reference), MONDAY, SUNDAY, chosen=chosen)


def test_long_periods_are_asked_for_month_by_month():
    assert split_by_month(date(2024, 12, 30), date(2025, 2, 3)) == [
        (date(2024, 12, 30), date(2024, 12, 31)),
        (date(2025, 1, 1), date(2025, 1, 31)),
        (date(2025, 2, 1), date(2025, 2, 3)),
    ]
    assert split_by_month(MONDAY, SUNDAY) == [(MONDAY, SUNDAY)]


def test_a_run_waits_until_the_report_may_be_called_again(serve, tenant: Store, monkeypatch: pytest.MonkeyPatch):
    api = serve(tenant, report_seconds=0.4)
    for name, value in api.environment.items():
        monkeypatch.setenv(name, value)
    reports = Reports(Client(settings.load()))
    described = reports.describe(SALES)
    for _ in range(3):
        reports.run(described, reports.choose_values(described, MONDAY, SUNDAY))
    assert [line["status"] for line in api.log if line["path"].endswith("/data")] == [200, 200, 200]


# --- pulled, and held against ours ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weekly(tenant: Store) -> dict:
    """The truth of the painting company's weeks."""
    rows = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    return truth.compute_weekly_kpis(tenant, rows, PAINTING.time_zone, LAST_DAY, PAINTING.rules)


@pytest.mark.parametrize(
    ("reference", "kpi", "unit"),
    [
        (LEADS, "leads", "Phoenix-Sales"),
        (SALES, "estimates", "Phoenix-Sales"),
        (SALES, "success_rate", "Phoenix-Sales"),
        (SALES, "total_booked", "Phoenix-Sales"),
        (COSTS, "dollars_produced", "Phoenix-Production"),
        (COSTS, "gpm", "Phoenix-Production"),
        (PAID, "dollars_collected", "Phoenix-Production"),
        (OWED, "outstanding_ar", "Phoenix-Production"),
    ],
)  # fmt: skip
def test_the_owner_s_reports_are_run_and_equal_the_truth(healthy, own, weekly, reference, kpi, unit):
    result = reconcile.run(reference, kpi, unit, "2025-08-18", "2025-08-24")
    assert result.matches
    assert result.theirs == Fraction(weekly[unit, date(2025, 8, 18)][kpi]) != 0
    assert ("(Filter by " in result.export) == (reference not in (SALES, OWED))


def test_a_report_by_technician_is_refused_in_one_sentence(healthy, own):
    with pytest.raises(UserError, match=r"^\*Daily WBR C/R\* has totals, but not by unit: .*Technician"):
        reconcile.run(REPS, "", "", "2025-08-18", "2025-08-24")


def test_a_year_of_rows_is_pulled_in_months_and_matches(healthy, own, sandbox: Sandbox):
    sandbox.log.clear()
    result = reconcile.run(COSTS, "dollars_produced", "Phoenix-Production", "2025-01-15", "2025-04-14")
    assert result.matches
    assert sum(line["path"].endswith("/data") for line in sandbox.log) == 4


# --- the night --------------------------------------------------------------------------------------------------------


def list_read(found: night.Report) -> list[Observation]:
    return [one.observation for one in found.checked if one.observation.source == API]


def assert_true(read: list[Observation], weekly: dict) -> None:
    """Every number of a full week is the truth, to the digits that a report shows."""
    weeks = [one for one in read if one.last_day - one.first_day == timedelta(days=6) and not one.dated_by]
    assert weeks
    for one in weeks:
        assert abs(Fraction(one.value) - Fraction(weekly[one.unit, one.first_day][one.kpi])) <= one.tolerance, one.id


def test_a_night_fills_the_ledger_until_the_definition_is_accepted(healthy, own, save, weekly):
    save("dollars_collected: {category: accounting, id: 1016}")
    found = night.check_ledger(read_reports=True)
    read = list_read(found)
    assert found.counts == {"matched": len(read), "unmatched": 0, "open": 0}
    assert len(read) >= 4
    assert_true(read, weekly)
    name = "*Collections* (Filter by Last Paid On Date)"
    first = sum(one.first_day == MONDAY for one in read)
    assert found.notes[0] == f"{first} numbers of {name} read, Sep 8 to Sep 14, 2025."
    assert {one.report for one in read} == {f"{name}: what was paid"}
    [search] = night.search_all(found)
    assert search.finding.verdict == "accepted"
    assert search.next_step == "$ Collected is counted as these numbers say: nothing to do."
    assert night.check_ledger(read_reports=True).notes == ()  # nothing is left to ask
    # Of a night on which either side was late: what does not match is read again.
    with warehouse.connect() as target:
        target.execute(
            "UPDATE st_logs_v2.observations SET value = value + 1, outcome = 'unmatched'"
            " WHERE first_day = DATE '2025-09-08'"
        )
    assert night.check_ledger().counts["unmatched"] == first
    found = night.check_ledger(read_reports=True)
    assert found.notes == (f"{first} numbers of {name} read, Sep 8 to Sep 14, 2025.",)
    assert found.counts == {"matched": len(read), "unmatched": 0, "open": 0}


def test_a_report_filtered_by_a_wrong_date_is_named(healthy, own, save, monkeypatch):
    monkeypatch.setattr(fetch, "ROUNDS", 3)
    save("leads: {category: marketing, id: 1011, parameters: {Filter by: Job Completion Date}}")
    found = night.check_ledger(read_reports=True)
    assert found.counts["unmatched"]
    assert found.error is None  # it never matched
    [search] = night.search_all(found)
    assert search.next_step.startswith(
        "*Leads* - API (Filter by Job Completion Date): this report counts by Job Completion Date, and we by Job "
        "Creation Date."
    )
    # Corrected, the same numbers are about the other date, and match.
    save("leads: {category: marketing, id: 1011, parameters: {Filter by: Job Creation Date}}")
    again = night.check_ledger()
    assert again.counts["unmatched"] == 0
    assert {one.dated_by for one in list_read(again) if one.basis == "Job Completion Date"} == {"completed"}
    dated = [one for one in list_read(again) if one.dated_by]
    # They are no figures that people see: neither the night's line nor the pages count them among those.
    with warehouse.connect(read_only=True) as target:
        shown = outcomes.check_shown(target, read_definitions())
    assert again.counts == outcomes.count_outcomes(shown)
    assert not {one.id for one in dated} & {one.observation.id for one in shown}
    assert again.notes == (f"By another date than yours, {len(dated)} of {len(dated)} numbers match.",)


def test_a_report_that_fails_is_a_yellow_note_and_the_others_are_read(healthy, own, sandbox: Sandbox, monkeypatch):
    monkeypatch.setattr(fetch, "ROUNDS", 1)
    (own / company.FILE).write_text(
        "reports:\n"
        "  leads: {category: marketing, id: 4711, name: Gone}\n"
        "  estimates_scheduled: {category: operations, id: 1015}\n"
        "  estimates: {category: technician-dashboard, id: 1013, name: By rep}\n"
        "  total_booked: {category: business-unit-dashboard, id: 1012}\n"
    )
    order = {"path": "reports/1015/data", "fault": "status", "status": 400, "title": "Bad column."}
    requests.post(f"{sandbox.url}/sandbox/faults", json=order, timeout=10).raise_for_status()
    try:
        found = night.check_ledger(read_reports=True)
    finally:
        requests.delete(f"{sandbox.url}/sandbox/faults", timeout=10)
    yellow = [note for note in found.notes if note.startswith("yellow: ")]
    assert len(yellow) == 3
    for words in (
        "Gone was not read.",
        "Bad column",
        "By rep was not read. *Daily WBR C/R* has totals, but not by unit",
    ):
        assert any(words in note for note in yellow)
    assert {one.kpi for one in list_read(found)} == {"total_booked"}
    assert found.counts["unmatched"] == 0


def assert_accepted(found: night.Report, kpis: list[str]) -> None:
    searches = {one.kpi.name: one for one in night.search_all(found)}
    assert {kpi: searches[kpi].finding.verdict for kpi in kpis} == dict.fromkeys(kpis, "accepted")
    assert all(search.next_step.endswith("nothing to do.") for search in searches.values())
    assert all(len(searches[kpi].numbers) >= 4 for kpi in kpis)


@pytest.mark.soak
def test_a_night_proves_every_kpi_of_the_painting_company(healthy, own, weekly):
    found = night.check_ledger(read_reports=True)
    assert not [note for note in found.notes if note.startswith("yellow")]
    assert found.counts["unmatched"] == 0
    assert_true(list_read(found), weekly)
    assert_accepted(found, list(read_catalog()))


@pytest.fixture
def hvac_built(hvac: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second company with its units and job types as its owner has them, its reports as proposed; built."""
    folder = tmp_path / "hvac"
    own = {"WAREHOUSE": folder / "warehouse.duckdb", "COMPANY": folder, "AS_OF": LAST_DAY, "ST_REPORT_MINUTES": 10}
    for name, value in (hvac.environment | own).items():
        monkeypatch.setenv(name, str(value))
    company.write_rows(folder / company.UNITS, company.COLUMNS[company.UNITS], HVAC.list_rollups())
    rules = [(name, "excluded_from_production") for name in HVAC.rules.not_production]
    rules += [(name, "warranty") for name in HVAC.rules.warranty]
    columns = company.COLUMNS[company.JOB_TYPE_RULES]
    rows = [dict(zip(columns, rule, strict=True)) for rule in sorted(rules)]
    company.write_rows(folder / company.JOB_TYPE_RULES, columns, rows)
    assert ingest.run_ingest().status == "ok"
    proposal.complete_folder()
    marts.build_marts(LAST_DAY.isoformat())
    return folder


@pytest.mark.soak
def test_a_night_proves_the_kpis_of_the_hvac_company_by_the_reports_that_were_proposed(hvac_built, hvac_tenant):
    kpis = list(company.read_company(settings.load()).reports)
    assert set(kpis) == set(read_catalog())
    found = night.check_ledger(read_reports=True)
    assert not [note for note in found.notes if note.startswith("yellow")]
    assert found.counts["unmatched"] == 0
    weeks = truth.compute_weekly_kpis(hvac_tenant, HVAC.list_rollups(), HVAC.time_zone, LAST_DAY, HVAC.rules)
    assert_true(list_read(found), weeks)
    assert_accepted(found, kpis)


@pytest.mark.soak
def test_the_night_names_the_job_types_that_a_report_does_not_count(hvac_built):
    rules = hvac_built / company.JOB_TYPE_RULES
    rules.write_text("\n".join(line for line in rules.read_text().splitlines() if "Safety Check" not in line) + "\n")
    marts.build_marts(LAST_DAY.isoformat())
    found = night.check_ledger(read_reports=True)
    assert found.counts["unmatched"]
    hints = [note for note in found.notes if "only here that count are of the job type Safety Check, and none" in note]
    assert hints and company.JOB_TYPE_RULES in hints[0]
