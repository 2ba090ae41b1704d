"""Validation: a healthy warehouse is all green, and each damage turns exactly the right checks red or yellow."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml
from zetasql_judge import Judge, of_this_project

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import populate
from stkpi import company, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import choose_definitions
from stkpi.marts import build as marts
from stkpi.validation import checks, kpi_checks, series, suites
from stkpi.validation import run as validation
from stkpi.validation.checks import Measure, Rule

ROOT = Path(__file__).parents[1]
AS_OF = "2025-09-14"  # a Sunday: the newest full week starts on the 8th
INPUTS = {"entity_days", "weekly_kpis"}  # SQL that comparisons read; no checks of their own
KPIS = read_catalog()
DEFAULTS = choose_definitions({})


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Iterator[Path]:
    """A warehouse that was ingested over HTTP from a generated tenant of a tenth of the size, KPI tables included."""
    file = tmp_path_factory.mktemp("healthy") / "warehouse.duckdb"
    store = Store()
    populate(store, seed=1, scale=0.1)
    running = server.start(store, calls_per_second=1_000_000)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (running.environment | {"WAREHOUSE": str(file), "AS_OF": AS_OF}).items():
            patch.setenv(name, value)
        assert ingest.run_ingest().status == "ok"
        running.close()
        marts.build_marts()
        yield file


@pytest.fixture
def damaged(healthy, tmp_path, monkeypatch) -> Callable[..., None]:
    """`damaged(sql, rebuild)` runs DuckDB's SQL on a copy of the healthy warehouse, which is then the one in use."""

    def run(sql: str, *, rebuild: bool = False) -> None:
        copy = tmp_path / "warehouse.duckdb"
        shutil.copy(healthy, copy)
        monkeypatch.setenv("WAREHOUSE", str(copy))
        with duckdb.connect(copy) as connection:
            connection.execute(sql)
        if rebuild:
            marts.build_marts(full=True)

    return run


@dataclass(frozen=True)
class Damage:
    """What is done to the tables, whether the KPIs are built after it, and every check that then is not green."""

    sql: str
    expect: dict[str, str]
    rebuild: bool = False


def newest(table: str) -> str:
    """The condition for one record of the last weeks."""
    return f"id = (SELECT MAX(id) FROM st_raw_v2.{table})"


RAW_PAYMENTS = "INSERT INTO st_raw_v2.raw_payments SELECT"
DAMAGES = {
    # --- rows that are not there ---
    "a month of invoices is gone": Damage(
        "DELETE FROM st_raw_v2.raw_invoices WHERE createdOn >= '2025-03-01' AND createdOn < '2025-04-01'",
        {"coverage": "red", "links": "red"},
        rebuild=True,
    ),
    "the estimates of two weeks did not come": Damage(
        "DELETE FROM st_raw_v2.raw_estimates WHERE createdOn >= '2025-09-01'",
        {"coverage": "red", "newest_records": "red"},
    ),
    "an entity was not read for three days": Damage(
        "UPDATE st_logs_v2.ingestion_logs SET finished_at = finished_at - INTERVAL 3 DAY WHERE entity = 'payments'",
        {"entities_read": "red"},
    ),
    "a list is refused": Damage(
        "INSERT INTO st_logs_v2.ingestion_logs (entity, status, finished_at)"
        " VALUES ('vendor_bills', 'refused', '2099-01-01 00:00:00+00')",
        {"refused_lists": "yellow"},
    ),
    "a row is in quarantine": Damage(
        "INSERT INTO st_logs_v2.quarantine (entity, key, reason) VALUES ('jobs', '7', 'total is not NUMERIC: abc')",
        {"quarantine": "red"},
    ),
    "a field of the estimates is gone": Damage(
        "UPDATE st_logs_v2.ingestion_logs SET missing = 'createdOn,soldOn' WHERE entity = 'estimates'",
        {"missing_fields": "red"},
    ),
    "two jobs were deleted in ServiceTitan": Damage(
        "INSERT INTO st_logs_v2.deleted (entity, key, deleted_at) VALUES"
        " ('jobs', '7', '2025-09-13 12:00:00+00'), ('jobs', '8', '2025-09-13 12:00:00+00')",
        {"deleted_records": "yellow"},
    ),
    "a job type was renamed": Damage(
        "UPDATE st_logs_v2.counted_names SET name = 'Old name', counted_as = 'something else' WHERE kind = 'job type'"
        " AND id = (SELECT MIN(job_type_id) FROM st_ref_v2.dim_jobs)",
        {"renamed": "red"},
    ),
    "a unit's week is missing": Damage(
        "DELETE FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start = '2025-07-14' AND business_unit = 'Mesa-Sales'",
        {"weekly_equals_facts": "red"},
    ),
    # --- rows that are there twice ---
    "a day of payments is loaded twice": Damage(
        f"{RAW_PAYMENTS} * FROM st_raw_v2.raw_payments WHERE date = '2025-09-10'",
        {"raw_payments._key.BeUnique": "red", "daily_volume": "yellow"},
    ),
    "a day of payments is doubled under new ids": Damage(
        f"{RAW_PAYMENTS} * REPLACE (id + 900000000 AS id, CAST(id + 900000000 AS VARCHAR) AS _key)"
        " FROM st_raw_v2.raw_payments WHERE date = '2025-09-10'",
        {
            "ar_equals_balances": "red",
            "fact_receivables.invoice_id+movement+application_id.BeUnique": "red",
            "daily_volume": "yellow",
        },
        rebuild=True,
    ),
    "a job is there twice": Damage(
        f"INSERT INTO st_raw_v2.raw_jobs SELECT * FROM st_raw_v2.raw_jobs WHERE {newest('raw_jobs')}",
        {"raw_jobs._key.BeUnique": "red"},
    ),
    "an old job is there twice": Damage(
        "INSERT INTO st_raw_v2.raw_jobs SELECT * FROM st_raw_v2.raw_jobs WHERE createdOn < '2024-09-01' LIMIT 1",
        {"keys": "red"},
    ),
    "a fact row is there twice": Damage(
        "INSERT INTO st_mart_v2.fact_production SELECT * FROM st_mart_v2.fact_production"
        " WHERE event_date = '2025-09-03' AND produced > 0 LIMIT 1",
        {"fact_production.job_id.BeUnique": "red", "weekly_equals_facts": "red"},
    ),
    # --- links that lead nowhere ---
    "a fifth of the invoices lost their job": Damage(
        "UPDATE st_raw_v2.raw_invoices SET jobId = NULL WHERE id % 5 = 0",
        {"invoices_without_job": "red", "produced_equals_invoices": "red"},
    ),
    "two weeks of payments pay unknown invoices": Damage(
        "UPDATE st_raw_v2.raw_payments SET appliedTo = json_array(json_object('appliedId', id, 'appliedTo', -id,"
        " 'appliedAmount', total, 'appliedOn', createdOn)) WHERE date BETWEEN '2025-08-25' AND '2025-09-05'",
        {"links": "red", "ar_equals_balances": "red"},
        rebuild=True,
    ),
    "three days of payroll belong to unknown jobs": Damage(
        "UPDATE st_raw_v2.raw_payroll SET jobId = -jobId WHERE date BETWEEN '2025-08-01' AND '2025-08-03'",
        {"links": "red"},
    ),
    "a unit has a new name": Damage(
        "UPDATE st_raw_v2.raw_business_units SET name = 'Sedona-Sales' WHERE name = 'Tucson-Comm-Sales'",
        {"unmapped_units": "red", "unmatched_names": "yellow"},
        rebuild=True,
    ),
    # --- values that cannot be ---
    "job numbers are numbers": Damage(
        "ALTER TABLE st_raw_v2.raw_jobs ALTER jobNumber TYPE BIGINT",
        {"raw_jobs.jobNumber.BeInTypeList": "red"},
    ),
    "a column is missing": Damage(
        "ALTER TABLE st_raw_v2.raw_returns DROP COLUMN status",
        dict.fromkeys(("raw_returns._key.NotBeNull", "raw_returns._key.BeUnique", "raw_returns.status.BeInSet"), "red"),
    ),
    "a key is empty": Damage(
        f"UPDATE st_raw_v2.raw_jobs SET _key = NULL WHERE {newest('raw_jobs')}",
        {"raw_jobs._key.NotBeNull": "red"},
    ),
    "a status is new": Damage(
        f"UPDATE st_raw_v2.raw_jobs SET jobStatus = 'Parked' WHERE {newest('raw_jobs')}",
        {"raw_jobs.jobStatus.BeInSet": "yellow"},
    ),
    "a job was completed in 2099": Damage(
        f"UPDATE st_raw_v2.raw_jobs SET completedOn = '2099-01-01' WHERE {newest('raw_jobs')}",
        {"dates_in_the_future": "yellow"},
    ),
    "an estimate was modified in 2099": Damage(
        f"UPDATE st_raw_v2.raw_estimates SET modifiedOn = '2099-01-01' WHERE {newest('raw_estimates')}",
        {"modified_in_the_future": "red"},
    ),
    "an estimate is negative": Damage(
        f"UPDATE st_raw_v2.raw_estimates SET subtotal = -1 WHERE {newest('raw_estimates')}",
        {"raw_estimates.subtotal.BeBetween": "yellow"},
    ),
    "an appointment ends before it starts": Damage(
        f'UPDATE st_raw_v2.raw_appointments SET "end" = start - INTERVAL 1 HOUR WHERE {newest("raw_appointments")}',
        {"raw_appointments.end+start.AToBeGreaterThanB": "yellow"},
    ),
    "a balance is 100 dollars off": Damage(
        "UPDATE st_raw_v2.raw_invoices SET balance = balance + 100"
        " WHERE id = (SELECT MAX(invoice_id) FROM st_ref_v2.dim_invoices WHERE division = 'Production')",
        {"ar_equals_balances": "red"},
        rebuild=True,
    ),
    # --- KPIs ---
    "the leads of the newest week are halved": Damage(
        "UPDATE st_mart_v2.kpi_weekly_by_bu SET leads = leads // 2 WHERE week_start = '2025-09-08'",
        {"weekly_equals_facts": "red"},
    ),
    "the newest week's receivables are a dollar off": Damage(
        "UPDATE st_mart_v2.kpi_weekly_by_bu SET outstanding_ar = outstanding_ar + 1"
        " WHERE week_start = '2025-09-08' AND business_unit = 'Mesa-Production'",
        {"weekly_equals_facts": "red"},
    ),
    "a whole week is missing": Damage(
        "DELETE FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start = '2025-07-14'",
        {"weekly_equals_facts": "red", "produced_equals_invoices": "red"},
    ),
    "the production of an old week is halved": Damage(
        "UPDATE st_mart_v2.kpi_weekly_by_bu SET dollars_produced = dollars_produced / 2"
        " WHERE week_start = '2025-03-10'",
        {"weekly_equals_facts": "red", "produced_equals_invoices": "red"},
    ),
    "a success rate is 120%": Damage(
        "UPDATE st_mart_v2.kpi_weekly_by_bu SET success_rate = 1.2"
        " WHERE week_start = '2025-07-14' AND business_unit = 'Mesa-Sales'",
        {"weekly_equals_facts": "red", "kpi_weekly_by_bu.success_rate.BeBetween": "yellow"},
    ),
    "nearly nobody called in the newest week": Damage(
        "DELETE FROM st_mart_v2.fact_leads WHERE event_date >= '2025-09-08' AND job_id % 10 != 0;"
        "UPDATE st_mart_v2.kpi_weekly_by_bu AS weekly SET leads = (SELECT COUNT(DISTINCT customer_id)"
        " FROM st_mart_v2.fact_leads AS facts WHERE facts.business_unit = weekly.business_unit"
        " AND event_date BETWEEN '2025-09-08' AND '2025-09-14') WHERE week_start = '2025-09-08'",
        {"company_week": "yellow"},
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_turns_exactly_the_right_checks(damaged, name):
    damage = DAMAGES[name]
    damaged(damage.sql, rebuild=damage.rebuild)
    found = validation.run()
    assert {check.name: check.color for check in found.checks if check.color != "green"} == damage.expect


def declared() -> list[suites.Expectation]:
    """Every expectation, those of all fact tables included."""
    return [each for suite in suites.complete_suites(suites.read_suites(), DEFAULTS) for each in suite.expectations]


def test_a_healthy_warehouse_is_all_green_and_every_check_has_its_line(healthy):
    lines = list(validation.run().format_lines())
    own = [name for name in checks.read_thresholds().checks if "." not in name]
    names = [each.name for each in declared()] + own
    assert sorted(line.split()[2] for line in lines) == sorted(f"{name}:" for name in names)
    assert {line.split()[0] for line in lines} == {"green"}


def test_a_critical_red_ends_the_command_with_1_and_comes_first(damaged, monkeypatch, capsys):
    from stkpi import __main__ as command  # noqa: PLC0415 the other tests do without every command

    damaged(DAMAGES["the leads of the newest week are halved"].sql)
    monkeypatch.setattr(sys, "argv", ["stkpi", "validate"])
    assert command.main() == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].startswith("red     critical  weekly_equals_facts: Leads: 6 ")
    assert printed.err.startswith("1 critical check is red.")
    assert "Leads: 6 " in printed.err


@pytest.mark.soak
def test_a_critical_red_fails_the_night_but_not_its_other_steps(damaged, monkeypatch, tmp_path, capsys):
    from stkpi.runs import runner  # noqa: PLC0415 the other tests do without it

    damaged(f"{DAMAGES['a status is new'].sql};{DAMAGES['the leads of the newest week are halved'].sql}")
    steps = [
        {"name": "validate", "notebook": str(ROOT / "notebooks" / "04_validate.ipynb")},
        {"name": "fine", "notebook": str(ROOT / "tests" / "notebooks" / "01_ok.ipynb")},
    ]
    (tmp_path / "spec.yml").write_text(yaml.safe_dump({"steps": steps}))
    assert runner.run_spec(tmp_path / "spec.yml", runs=tmp_path / "runs") == 1
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    summary = json.loads((folder / "summary.json").read_text())
    written = json.loads((folder / "validation.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["failed", "ok"]
    assert summary["checks"] == written["counts"] == {"red": 1, "yellow": 1, "green": len(written["checks"]) - 2}
    assert (written["as_of"], written["first_day"]) == ("2025-09-14", "2025-06-16")
    assert [(each["item"], each["value"]) for each in written["checks"][0]["measures"]] == [("Leads", 6.0)]
    assert "\n  yellow  warning   raw_jobs.jobStatus.BeInSet: 1 of " in capsys.readouterr().out
    page = (folder / "04_validate.html").read_text()
    title = checks.read_thresholds().checks["weekly_equals_facts"].title
    assert f'<span class="light red">red</span> <strong>{title}</strong>' in page


def test_what_cannot_be_validated_is_told_in_a_sentence(healthy, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="2025-09-14, not 2025-09-07"):
        validation.run(as_of="2025-09-07")
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match=r"no KPI tables to check yet.*03_kpi_build"):
        validation.run()


def test_the_companys_ratio_is_a_ratio_of_sums(healthy):
    sql = kpi_checks.weekly_kpis_sql(DEFAULTS)
    with warehouse.connect() as target:
        week = target.query(sql, first_day=date(2025, 8, 18), as_of=date(2025, 8, 24)).set_index("scope")
        sums = target.query(
            "SELECT SUM(closed) AS closed, SUM(opportunities) AS opportunities FROM st_mart_v2.kpi_weekly_by_bu"
            " WHERE week_start = DATE '2025-08-18'"
        ).iloc[0]
    known = week.loc["Phoenix-Sales"]
    assert (int(known["leads"]), round(known["success_rate"], 4)) == (96, 0.3974)  # the known case: 31 of 78
    assert sums["opportunities"] > 78
    assert week.loc["The company"]["success_rate"] == pytest.approx(float(sums["closed"] / sums["opportunities"]))


# --- definitions that a company adopted -------------------------------------------------------------------------------

ADOPTED = {
    "leads": {"window": "late_end", "entity": "estimate"},
    "estimates": {"shift": "weeks_52"},
    "dollars_produced": {"measure": "total"},
    "gpm": {"measure": "full", "job_type": "any"},
    "future_bookings": {"window": "after_today", "shift": "year"},
    "outstanding_ar": {"measure": "least_10_customer", "window": "before"},
}


@pytest.fixture(scope="module")
def adopted(healthy, tmp_path_factory) -> Iterator[Path]:
    """The healthy warehouse with KPI tables by adopted definitions, which then are the company's."""
    copy = Path(shutil.copy(healthy, tmp_path_factory.mktemp("adopted") / "warehouse.duckdb"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAREHOUSE", str(copy))
        for module in (marts, validation):
            patch.setattr(module, "read_definitions", lambda _=None: choose_definitions(ADOPTED))
        marts.build_marts(full=True)
        yield copy


def test_adopted_definitions_are_all_green_and_what_does_not_hold_for_them_is_not_checked(adopted):
    found = {check.name: check for check in validation.run().checks}
    assert {check.color for check in found.values()} == {"green"}
    skipped = {
        "ar_equals_balances": "Outstanding A/R",
        "produced_equals_invoices": "$ Produced",
        "fact_leads.job_id.BeUnique": "Leads",
        "kpi_weekly_by_bu.gpm.BeBetween": "GPM",
    }
    for name, label in skipped.items():
        assert found[name].found.startswith("Not checked: ")
        assert label in found[name].found
    for name in ("fact_gpm.business_unit.NotBeNull", "fact_leads.event_date.NotBeNull", "weekly_equals_facts"):
        assert "Not checked" not in found[name].found


LAST_OF_EACH = {
    name: {dimension.name: dimension.options[-1].id for dimension in kpi.dimensions} for name, kpi in KPIS.items()
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The analyzer, knowing the tables of this project."""
    return of_this_project()


@pytest.mark.parametrize(
    "departures",
    [
        pytest.param(ADOPTED, id="adopted"),
        pytest.param({}, id="default", marks=pytest.mark.soak),
        pytest.param(LAST_OF_EACH, id="last option of each", marks=pytest.mark.soak),
    ],
)
def test_every_check_of_kpis_is_googlesql(judge, departures):
    definitions = choose_definitions(departures)
    for mart in marts.list_marts(definitions):
        judge.declare(mart.name, judge.analyze(mart.sql, marts.PARAMETERS))
    columns = judge.analyze(kpi_checks.weekly_equals_facts_sql(definitions), marts.PARAMETERS)
    assert columns == (("item", "STRING"), ("value", "INT64"), ("detail", "STRING"))
    compared = dict(judge.analyze(kpi_checks.weekly_kpis_sql(definitions), marts.PARAMETERS))
    assert compared.keys() == {"scope", "week_start", *KPIS}


def test_a_wrong_week_of_an_adopted_definition_is_red(adopted, monkeypatch, tmp_path):
    copy = Path(shutil.copy(adopted, tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("WAREHOUSE", str(copy))
    with duckdb.connect(copy) as connection:
        connection.execute(
            "UPDATE st_mart_v2.kpi_weekly_by_bu SET outstanding_ar = outstanding_ar + 1, gpm = NULL"
            " WHERE week_start = '2025-09-08' AND business_unit = 'Mesa-Production'"
        )
    (check,) = (check for check in validation.run().checks if check.name == "weekly_equals_facts")
    assert {(each.item, each.value) for each in check.measures} == {("Outstanding A/R", 1.0), ("GPM", 1.0)}


def test_a_suite_of_a_table_that_no_kpi_uses_is_not_an_error():
    gone = suites.Expectation("st_mart_v2.fact_gpm", "ExpectColumnValuesToBeUnique", {"column": "job_id"})
    suite = suites.Suite(gone.table, (gone,), day="event_date")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "read_suites", lambda: (suite,))
        prepared = suites.prepare_suites(checks.read_thresholds(), DEFAULTS)
    (check,) = (check for each in prepared for check in each.skipped)
    assert (check.color, check.found) == ("green", "Not checked: no KPI counts the rows of this table.")


def test_limits_for_an_unknown_kpi_are_refused(healthy, monkeypatch):
    limits = checks.read_thresholds()
    rule = replace(limits.checks["links"], kpi="lead")
    monkeypatch.setattr(validation, "read_thresholds", lambda: replace(limits, checks={**limits.checks, "links": rule}))
    with pytest.raises(UserError, match="links names the KPI lead"):
        validation.run()


# --- limits and colors ------------------------------------------------------------------------------------------------

RULE = Rule("Every month is there", "critical", 0.8, 0.95, "Read it again.", {"returns": {"green": 1, "red": 1}})


@pytest.mark.parametrize(
    ("item", "value", "color"),
    [
        ("jobs", 0, "green"),
        ("jobs", 0.8, "green"),
        ("jobs", 0.81, "yellow"),
        ("jobs", 0.95, "yellow"),
        ("jobs", 0.96, "red"),
        ("jobs", inf, "red"),
        ("jobs", nan, "red"),
        ("returns", 0.96, "green"),
        ("returns", 1.5, "red"),
    ],
)
def test_a_value_has_the_color_of_its_limits(item, value, color):
    assert RULE.color(item, value) == color


def test_one_red_measure_among_many_is_red_and_told():
    fine = [Measure(f"unit {n}", 0, "fine") for n in range(50)]
    check = checks.judge("coverage", RULE, [*fine[:25], Measure("jobs", 1, "no rows"), *fine[25:]])
    assert (check.color, check.found, check.is_blocking) == ("red", "jobs: no rows", True)
    assert check.measures == (Measure("jobs", 1, "no rows"),)


def test_nothing_to_look_at_is_red():
    check = checks.judge("coverage", RULE, [])
    assert (check.color, check.found) == ("red", "Could not be checked: there was nothing to look at")


def test_a_measure_without_a_number_leaves_valid_json():
    written = checks.judge("coverage", RULE, [Measure("jobs", inf, "was never read")]).to_dict()
    assert json.loads(json.dumps(written, allow_nan=False))["measures"][0]["value"] is None


# --- the settings files -----------------------------------------------------------------------------------------------


def test_every_check_has_limits_and_every_limit_a_check():
    limits = checks.read_thresholds()
    names = [each.name for each in declared()]
    assert len(names) == len(set(names))
    assert {name for name in limits.checks if "." in name} <= set(names)
    assert {each.kind for each in declared()} == limits.expectations.keys()
    files = {path.stem for path in validation.SQL.glob("*.sql")} | validation.GENERATED.keys()
    assert {name for name in limits.checks if "." not in name} == files - INPUTS | validation.SERIES.keys()
    assert {rule.kpi for rule in limits.checks.values() if rule.kpi} <= KPIS.keys()


def test_suites_cover_every_layer_and_name_no_customer():
    found = suites.read_suites()
    assert {suite.table.partition(".")[0] for suite in found} == {"st_raw_v2", "st_ref_v2", "st_mart_v2"}
    columns = {column for suite in found for each in suite.expectations for column in each.columns}
    assert not columns & {"name", "customer_name", "summary", "memo"}


def test_a_suite_reads_the_rows_of_its_window_in_the_tenants_time_zone():
    (suite,) = (suite for suite in suites.read_suites() if suite.table == "st_raw_v2.raw_locations")
    sql, bounds = suite.select(date(2025, 6, 16), date(2025, 9, 14), "America/Phoenix")
    columns = "`_key`, `customerId`"
    assert sql == f"SELECT {columns} FROM st_raw_v2.raw_locations WHERE `createdOn` >= @first AND `createdOn` < @end"
    assert {name: day.astimezone(UTC).isoformat() for name, day in bounds.items()} == {
        "first": "2025-06-16T07:00:00+00:00",
        "end": "2025-09-15T07:00:00+00:00",
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ExpectColumnValuesToBeUniqe: {column: _key}", "has no limits for ExpectColumnValuesToBeUniqe"),
        ("ExpectColumnValuesToBeUnique: {colum: _key}", "extra fields not permitted"),
        ("ExpectColumnValuesToBeUnique: {}", "field required"),
    ],
)
def test_a_misspelt_expectation_is_refused_before_anything_is_green(healthy, monkeypatch, tmp_path, line, sentence):
    (tmp_path / "raw.yml").write_text(f"st_raw_v2.raw_jobs:\n  instant: createdOn\n  expectations:\n    - {line}\n")
    monkeypatch.setattr(suites, "read_suites", lambda read=suites.read_suites: read(tmp_path))
    with pytest.raises(UserError, match=sentence):
        validation.run()


def test_a_kind_that_great_expectations_lacks_is_refused_although_it_has_limits():
    with pytest.raises(UserError, match="ExpectColumnValuesToBeUniqe"):
        suites.build_expectation(
            suites.Expectation("st_raw_v2.raw_jobs", "ExpectColumnValuesToBeUniqe", {"column": "_key"})
        )


@pytest.mark.parametrize("change", ["severity: grave", "green: 2", "gren: 0"])
def test_a_settings_file_that_does_not_hold_together_is_refused(tmp_path, change):
    path = tmp_path / "thresholds.yml"
    rule = {"title": "x", "severity": "warning", "green": 0, "red": 1, "remedy": "y"} | yaml.safe_load(change)
    path.write_text(yaml.safe_dump({"expectations": {}, "checks": {"links": rule}}))
    with pytest.raises(UserError, match=r"thresholds\.yml"):
        checks.read_thresholds(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unmaped_units: {red: 3}", "unmaped_units: there is no such check; did you mean unmapped_units?"),
        ("links: {red: many}", "thresholds of links: it takes numbers for green and red"),
        ("links: {green: 1, red: 0}", "green not above red"),
        ("links: {severity: warning}", "it takes numbers for green and red"),
        ("links: {items: {jobs to customers: {red: 1}}}", "items with both"),
    ],
)
def test_limits_of_a_company_that_cannot_be_are_refused(text, words):
    with pytest.raises(UserError, match=re.escape(words)):
        checks.change_limits(checks.read_thresholds(), yaml.safe_load(text))


def test_a_company_s_limits_take_the_place_of_the_others_and_its_items_are_added():
    given = {"links": {"red": 0.5, "items": {"jobs to customers": {"green": 0, "red": 1}}}}
    rule = checks.change_limits(checks.read_thresholds(), given).checks["links"]
    assert (rule.green, rule.red, rule.items["jobs to customers"]) == (0.005, 0.5, {"green": 0, "red": 1})
    assert "payments to invoices" in rule.items


@pytest.mark.fault(91)
def test_a_name_that_nothing_has_is_yellow_with_the_nearest_right_one(healthy, tmp_path, monkeypatch):
    folder = shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company")
    (folder / company.JOB_TYPE_RULES).write_text("job_type,rule\nTouchup,warranty\nWarrenty,warranty\n")
    monkeypatch.setenv("COMPANY", str(folder))
    (check,) = (check for check in validation.run().checks if check.name == "unmatched_names")
    assert (check.color, check.found) == (
        "yellow",
        f"Warrenty: {folder / company.JOB_TYPE_RULES}, line 3: ServiceTitan has no job type called Warrenty; "
        "did you mean Warranty?",
    )


# --- comparisons with the past ----------------------------------------------------------------------------------------


def by_day(entity: str, first: date, last: date, records: Callable[[date], int]) -> pd.DataFrame:
    """A row per day, as sql/checks/entity_days.sql gives them."""
    days = pd.date_range(first, last).date
    return pd.DataFrame([{"entity": entity, "day": day, "records": records(day)} for day in days])


def of(measures: Iterator[Measure], entity: str) -> list[tuple[float, str]]:
    """Value and detail of an entity's measures."""
    return [(each.value, each.detail) for each in measures if each.item.startswith(entity)]


def test_an_empty_month_is_missing_whole_and_a_running_one_is_judged_by_its_days():
    days = by_day("jobs", date(2025, 1, 1), date(2025, 6, 10), lambda day: 0 if day.month == 4 else 2)
    measures = list(series.measure_coverage(days, least=5))
    assert of(measures, "jobs 2025-04") == [(1, "0 rows where about 62 are usual")]  # the median of 62, 56, 62, 0, 62
    assert of(measures, "jobs 2025-06") == [(pytest.approx(1 - 20 / (62 / 3)), "20 rows where about 21 are usual")]
    assert of(measures, "jobs 2025-01") == []  # the entity begins
    assert of(measures, "invoices") == [(1, "no rows at all")]


def test_a_month_in_which_little_is_usual_is_not_judged():
    days = by_day("returns", date(2025, 1, 1), date(2025, 5, 31), lambda day: int(day.day == 1 and day.month != 3))
    assert of(series.measure_coverage(days, least=5), "returns") == []


def test_silence_is_measured_by_the_longest_gap_before():
    days = by_day("jobs", date(2025, 6, 1), date(2025, 6, 30), lambda day: int(day.day in (1, 4, 6, 9, 12, 15)))
    assert of(series.measure_silence(days, date(2025, 6, 30)), "jobs") == [
        (5, "nothing for 15 days, the longest gap before was 3")
    ]
    assert of(series.measure_silence(days, date(2025, 6, 30)), "returns") == [(inf, "no rows at all")]


def test_the_silence_of_what_is_rare_and_need_not_be_there_is_not_judged():
    rare = by_day("credit_memos", date(2025, 3, 1), date(2025, 6, 30), lambda day: int(day.day == 1 and day.month < 5))
    assert of(series.measure_silence(rare, date(2025, 6, 30)), "credit_memos") == []
    daily = by_day("credit_memos", date(2025, 3, 1), date(2025, 6, 30), lambda day: int(day.month < 6))
    assert of(series.measure_silence(daily, date(2025, 6, 30)), "credit_memos")[0][0] == 15


def test_a_day_is_compared_with_its_weekday():
    def records(day: date) -> int:
        return 60 if day == date(2025, 6, 24) else 9 if day.weekday() < 5 else 1

    days = by_day("jobs", date(2025, 1, 1), date(2025, 6, 30), records)
    scores = {m.item: (m.value, m.detail) for m in series.measure_volume(days, date(2025, 6, 30))}
    assert scores["jobs 2025-06-24"] == (17, "60 rows where 9 are usual on a Tuesday")  # (60 - 9) / √9
    assert scores["jobs 2025-06-29"] == (0, "1 rows where 1 are usual on a Sunday")
    assert (min(scores), max(scores)) == ("jobs 2025-06-23", "jobs 2025-06-29")
    assert of(series.measure_volume(days.assign(entity="payroll"), date(2025, 6, 30)), "payroll") == []


def weekly(**kpis: list[float]) -> pd.DataFrame:
    """Weeks of the company that end with the one of 2025-09-08, as `weekly_kpis_sql` gives them."""
    count = len(next(iter(kpis.values())))
    weeks = [date(2025, 9, 8) - timedelta(weeks=n) for n in reversed(range(count))]
    return pd.DataFrame({"scope": "The company", "week_start": weeks, **kpis})


def measure_newest_week(weeks: pd.DataFrame, kpi: str, *, company: bool = True) -> list[Measure]:
    """What is measured of one KPI on the Sunday of the newest week."""
    return list(series.measure_newest_week(weeks, {kpi: KPIS[kpi]}, date(2025, 9, 14), company=company))


@pytest.mark.parametrize(
    ("kpi", "weeks", "value", "detail"),
    [
        ("leads", [100] * 12 + [50], 5, "50 where 100 is usual, week of Sep 8, 2025"),  # 50 / √100
        ("total_booked", [100] * 12 + [50], 10, "$50 where $100 is usual, week of Sep 8, 2025"),  # 50 / 5% of 100
        ("total_booked", [80, 120] * 6 + [40], 60 / (1.4826 * 20), "$40 where $100 is usual, week of Sep 8, 2025"),
        ("success_rate", [0.4] * 12 + [0.3], 2, "30.0% where 40.0% is usual, week of Sep 8, 2025"),  # 0.1 / 0.05
        ("outstanding_ar", [*range(100, 112), 112], 0, "$112 where $106 is usual, week of Sep 8, 2025"),  # grows by 1
        ("gpm", [0.6] * 12 + [0.1] + [0.9] * 7, 10, "10.0% where 60.0% is usual, week of Jul 21, 2025"),
    ],
)  # fmt: skip
def test_the_newest_week_is_measured_in_times_its_usual_variation(kpi, weeks, value, detail):
    (measure,) = measure_newest_week(weekly(**{kpi: weeks}), kpi)
    label = KPIS[kpi].label
    assert (measure.item, measure.value, measure.detail) == (f"The company, {label}", pytest.approx(value), detail)


def test_a_unit_that_was_zero_in_a_week_is_too_thin_to_say():
    weeks = weekly(leads=[0] + [100] * 11 + [50]).assign(scope="Yuma-Sales")
    assert measure_newest_week(weeks, "leads", company=False) == []


def test_a_level_that_did_not_move_in_a_week_is_too_thin_to_say():
    weeks = weekly(outstanding_ar=[900, 920, 920, *range(930, 1020, 10), 2_000])  # a small unit with a bill or two
    assert measure_newest_week(weeks, "outstanding_ar", company=True) == []


@pytest.mark.parametrize("last", [96, 960])
def test_an_outlier_before_does_not_hide_the_next(last):
    weeks = weekly(total_booked=[100, 104, 96] * 3 + [100, 104, last, 200])
    (measure,) = measure_newest_week(weeks, "total_booked")
    assert measure.value == pytest.approx(100 / (1.4826 * 4))  # a mean and its deviation would say 0.1 for 960


def test_an_entity_that_was_never_read_is_told():
    status = pd.DataFrame({"entity": ["jobs"], "last_read": [pd.Timestamp("2025-09-14T01:00Z")], "refused": [False]})
    measures = list(series.measure_reads(status, datetime(2025, 9, 15, 4, tzinfo=UTC)))
    assert of(measures, "jobs") == [(27, "read 27 hours ago")]
    assert of(measures, "payments") == [(inf, "was never read")]
