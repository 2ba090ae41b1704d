"""Validation: a healthy warehouse is all green, and each damage turns exactly the right checks red or yellow."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import inf, nan
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import populate
from stkpi import __main__ as command
from stkpi import warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.runs import runner
from stkpi.validation import checks, series, suites
from stkpi.validation import run as validation
from stkpi.validation.checks import Measure, Rule

ROOT = Path(__file__).parents[1]
AS_OF = "2025-09-14"  # a Sunday: the newest full week starts on the 8th
INPUTS = {"entity_days", "weekly_kpis"}  # SQL that comparisons read; no checks of their own


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
        assert ingest.run().status == "ok"
        running.close()
        marts.build()
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
            marts.build(full=True)

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
    "a row is in quarantine": Damage(
        "INSERT INTO st_logs_v2.quarantine (entity, key, reason) VALUES ('jobs', '7', 'total is not NUMERIC: abc')",
        {"quarantine": "yellow"},
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
        {"unmapped_units": "red"},
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


def test_a_healthy_warehouse_is_all_green_and_every_check_has_its_line(healthy, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stkpi", "validate"])
    assert command.main() == 0
    lines = capsys.readouterr().out.splitlines()
    declared = [each.name for suite in suites.read() for each in suite.expectations]
    own = [name for name in checks.thresholds().checks if "." not in name]
    assert sorted(line.split()[2] for line in lines) == sorted(f"{name}:" for name in declared + own)
    assert {line.split()[0] for line in lines} == {"green"}


def test_a_critical_red_ends_the_command_with_1_and_comes_first(damaged, monkeypatch, capsys):
    damaged(DAMAGES["the leads of the newest week are halved"].sql)
    monkeypatch.setattr(sys, "argv", ["stkpi", "validate"])
    assert command.main() == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[0].startswith("red     critical  weekly_equals_facts: leads: 6 weeks of units differ")
    assert told.err.startswith("1 critical check is red. “Every weekly figure is the sum of its rows” fails: leads: 6")


@pytest.mark.soak
def test_a_critical_red_fails_the_night_but_not_its_other_steps(damaged, monkeypatch, tmp_path, capsys):
    damaged(f"{DAMAGES['a status is new'].sql};{DAMAGES['the leads of the newest week are halved'].sql}")
    steps = [
        {"name": "validate", "notebook": str(ROOT / "notebooks" / "04_validate.ipynb")},
        {"name": "fine", "notebook": str(ROOT / "tests" / "notebooks" / "01_ok.ipynb")},
    ]
    (tmp_path / "spec.yml").write_text(yaml.safe_dump({"steps": steps}))
    assert runner.run(tmp_path / "spec.yml", runs=tmp_path / "runs") == 1
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    summary = json.loads((folder / "summary.json").read_text())
    told = json.loads((folder / "validation.json").read_text())
    assert [step["status"] for step in summary["steps"]] == ["failed", "ok"]
    assert summary["checks"] == told["counts"] == {"red": 1, "yellow": 1, "green": len(told["checks"]) - 2}
    assert (told["as_of"], told["first_day"]) == ("2025-09-14", "2025-06-16")
    assert told["checks"][0]["measures"] == [
        {"item": "leads", "value": 6.0, "detail": "6 weeks of units differ from their rows"}
    ]
    assert "\n  yellow  warning   raw_jobs.jobStatus.BeInSet: 1 of " in capsys.readouterr().out
    page = (folder / "04_validate.html").read_text()
    assert '<span class="light red">red</span> <strong>Every weekly figure is the sum of its rows</strong>' in page


def test_what_cannot_be_validated_is_told_in_a_sentence(healthy, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="The KPI tables reach 2025-09-14, not 2025-09-07: build them"):
        validation.run(as_of="2025-09-07")
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match="There are no KPI tables to check yet: run `make nightly` first"):
        validation.run()


def test_the_companys_ratio_is_a_ratio_of_sums(healthy):
    sql = (validation.SQL / "weekly_kpis.sql").read_text(encoding="utf-8")
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


# --- limits and colours -----------------------------------------------------------------------------------------------

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
    well = [Measure(f"unit {n}", 0, "fine") for n in range(50)]
    check = checks.judge("coverage", RULE, [*well[:25], Measure("jobs", 1, "no rows"), *well[25:]])
    assert (check.color, check.found, check.stops) == ("red", "jobs: no rows", True)
    assert check.measures == (Measure("jobs", 1, "no rows"),)


def test_nothing_to_look_at_is_red():
    check = checks.judge("coverage", RULE, [])
    assert (check.color, check.found) == ("red", "Could not be checked: there was nothing to look at")


def test_a_measure_without_a_number_leaves_valid_json():
    told = checks.judge("coverage", RULE, [Measure("jobs", inf, "was never read")]).told()
    assert json.loads(json.dumps(told, allow_nan=False))["measures"][0]["value"] is None


# --- the settings files -----------------------------------------------------------------------------------------------


def test_every_check_has_limits_and_every_limit_a_check():
    limits = checks.thresholds()
    declared = [each for suite in suites.read() for each in suite.expectations]
    names = [each.name for each in declared]
    assert len(names) == len(set(names))
    assert {name for name in limits.checks if "." in name} <= set(names)
    assert {each.kind for each in declared} == limits.expectations.keys()
    files = {path.stem for path in validation.SQL.glob("*.sql")} - INPUTS
    assert {name for name in limits.checks if "." not in name} == files | validation.SERIES.keys()


def test_suites_cover_every_layer_and_name_no_customer():
    found = suites.read()
    assert {suite.table.partition(".")[0] for suite in found} == {"st_raw_v2", "st_ref_v2", "st_mart_v2"}
    columns = {column for suite in found for each in suite.expectations for column in each.columns}
    assert not columns & {"name", "customer_name", "summary", "memo"}


def test_a_suite_reads_the_rows_of_its_window_in_the_tenants_time_zone():
    (suite,) = (suite for suite in suites.read() if suite.table == "st_raw_v2.raw_locations")
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
    monkeypatch.setattr(suites, "read", lambda read=suites.read: read(tmp_path))
    with pytest.raises(UserError, match=sentence):
        validation.run()


def test_a_kind_that_great_expectations_lacks_is_refused_although_it_has_limits():
    with pytest.raises(UserError, match="ExpectColumnValuesToBeUniqe"):
        suites.declare(suites.Expectation("st_raw_v2.raw_jobs", "ExpectColumnValuesToBeUniqe", {"column": "_key"}))


@pytest.mark.parametrize("change", ["severity: grave", "green: 2", "gren: 0"])
def test_a_settings_file_that_does_not_hold_together_is_refused(tmp_path, change):
    path = tmp_path / "thresholds.yml"
    rule = {"title": "x", "severity": "warning", "green": 0, "red": 1, "remedy": "y"} | yaml.safe_load(change)
    path.write_text(yaml.safe_dump({"expectations": {}, "checks": {"links": rule}}))
    with pytest.raises(UserError, match=r"thresholds\.yml"):
        checks.thresholds(path)


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
    measures = list(series.coverage(days, least=5))
    assert of(measures, "jobs 2025-04") == [(1, "0 rows where about 62 are usual")]  # the median of 62, 56, 62, 0, 62
    assert of(measures, "jobs 2025-06") == [(pytest.approx(1 - 20 / (62 / 3)), "20 rows where about 21 are usual")]
    assert of(measures, "jobs 2025-01") == []  # the entity begins
    assert of(measures, "invoices") == [(1, "no rows at all")]


def test_a_month_in_which_little_is_usual_is_not_judged():
    days = by_day("returns", date(2025, 1, 1), date(2025, 5, 31), lambda day: int(day.day == 1 and day.month != 3))
    assert of(series.coverage(days, least=5), "returns") == []


def test_silence_is_measured_by_the_longest_gap_before():
    days = by_day("jobs", date(2025, 6, 1), date(2025, 6, 30), lambda day: int(day.day in (1, 4, 6, 9, 12, 15)))
    assert of(series.silence(days, date(2025, 6, 30)), "jobs") == [
        (5, "nothing for 15 days, the longest gap before was 3")
    ]
    assert of(series.silence(days, date(2025, 6, 30)), "returns") == [(inf, "no rows at all")]


def test_a_day_is_compared_with_its_weekday():
    def records(day: date) -> int:
        return 60 if day == date(2025, 6, 24) else 9 if day.weekday() < 5 else 1

    days = by_day("jobs", date(2025, 1, 1), date(2025, 6, 30), records)
    scores = {m.item: (m.value, m.detail) for m in series.volume(days, date(2025, 6, 30))}
    assert scores["jobs 2025-06-24"] == (17, "60 rows where 9 are usual on a Tuesday")  # (60 - 9) / √9
    assert scores["jobs 2025-06-29"] == (0, "1 rows where 1 are usual on a Sunday")
    assert (min(scores), max(scores)) == ("jobs 2025-06-23", "jobs 2025-06-29")
    assert of(series.volume(days.assign(entity="payroll"), date(2025, 6, 30)), "payroll") == []


def weekly(**kpis: list[float]) -> pd.DataFrame:
    """Weeks of the company that end with the one of 2025-09-08, as sql/checks/weekly_kpis.sql gives them."""
    count = len(next(iter(kpis.values())))
    weeks = [date(2025, 9, 8) - timedelta(weeks=n) for n in reversed(range(count))]
    return pd.DataFrame({"scope": "The company", "week_start": weeks, **kpis})


@pytest.mark.parametrize(
    ("kpi", "weeks", "value", "detail"),
    [
        ("leads", [100] * 12 + [50], 5, "50 where 100 is usual, week of 2025-09-08"),  # 50 / √100
        ("total_booked", [100] * 12 + [50], 10, "50 where 100 is usual, week of 2025-09-08"),  # 50 / 5% of 100
        ("total_booked", [80, 120] * 6 + [40], 60 / (1.4826 * 20), "40 where 100 is usual, week of 2025-09-08"),
        ("success_rate", [0.4] * 12 + [0.3], 2, "30.0% where 40.0% is usual, week of 2025-09-08"),  # 0.1 / 0.05
        ("outstanding_ar", [*range(100, 112), 112], 0, "112 where 106 is usual, week of 2025-09-08"),  # grows by 1
        ("gpm", [0.6] * 12 + [0.1] + [0.9] * 7, 10, "10.0% where 60.0% is usual, week of 2025-07-21"),
    ],
)  # fmt: skip
def test_the_newest_week_is_measured_in_spreads_of_the_weeks_before(kpi, weeks, value, detail):
    (measure,) = series.newest_week(weekly(**{kpi: weeks}), date(2025, 9, 14), company=True)
    assert (measure.item, measure.value, measure.detail) == (f"The company, {kpi}", pytest.approx(value), detail)


def test_a_unit_that_was_zero_in_a_week_is_too_thin_to_say():
    weeks = weekly(leads=[0] + [100] * 11 + [50]).assign(scope="Yuma-Sales")
    assert list(series.newest_week(weeks, date(2025, 9, 14), company=False)) == []


@pytest.mark.parametrize("last", [96, 960])
def test_an_outlier_before_does_not_hide_the_next(last):
    weeks = weekly(total_booked=[100, 104, 96] * 3 + [100, 104, last, 200])
    (measure,) = series.newest_week(weeks, date(2025, 9, 14), company=True)
    assert measure.value == pytest.approx(100 / (1.4826 * 4))  # a mean and its deviation would say 0.1 for 960


def test_an_entity_that_was_never_read_is_told():
    status = pd.DataFrame({"entity": ["jobs"], "last_read": [pd.Timestamp("2025-09-14T01:00Z")]})
    measures = list(series.reads(status, datetime(2025, 9, 15, 4, tzinfo=UTC)))
    assert of(measures, "jobs") == [(27, "read 27 hours ago")]
    assert of(measures, "payments") == [(inf, "was never read")]
