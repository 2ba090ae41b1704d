"""Whatever definition a company chooses, the comparison's own side is the number of the weekly table, and what is known
of a row agrees with whether it counts.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import date

import numpy as np
import pandas as pd
import pytest
from exported import LEADS, report
from zetasql_judge import Judge, of_this_project

from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import warehouse
from stkpi.errors import UserError
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import Definition, choose_definitions, name_facts
from stkpi.kpis.sql import fact_sql
from stkpi.marts import build as marts
from stkpi.reconcile import bridge, compare, exports, render
from stkpi.reconcile.comparison import Comparison, find_window, infer_comparison, plan_comparison, plan_totals
from stkpi.reconcile.queries import (
    KEYS,
    UNITS,
    condition_bits,
    count_known_keys_sql,
    known_keys_sql,
    load_known_keys,
    load_our_rows,
    our_rows_sql,
    stage_units,
    unit_keys_sql,
)
from stkpi.reconcile.reasons import IDENTICAL, ONLY_EXPORT, ONLY_WAREHOUSE
from stkpi.warehouse import Warehouse

Definitions = Mapping[str, Definition]


def rebuild(definitions: Definitions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build every table by the definitions, and let the comparison know them."""
    for module in (marts, compare):
        monkeypatch.setattr(module, "read_definitions", lambda *_: definitions)
    marts.build_marts(LAST_DAY.isoformat(), full=True)


def list_comparisons(definitions: Definitions) -> Iterator[Comparison]:
    facts = name_facts(definitions)
    for name, definition in definitions.items():
        yield plan_comparison(definition, facts[name])


def check_numbers(target: Warehouse, definitions: Definitions, seed: int, count: int) -> int:
    """Hold the comparison's own side of the last and of drawn weeks against the weekly table; how many are not zero."""
    rng = np.random.default_rng(seed)
    weekly = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
    weeks = weekly[["week_start", "last_day"]].drop_duplicates().sort_values("week_start")
    weeks = weeks.iloc[sorted({len(weeks) - 1, *rng.choice(len(weeks) - 1, count - 1, replace=False)})]
    expected = weekly.set_index(["week_start", "business_unit"])
    units = target.query("SELECT DISTINCT business_unit, division FROM st_ref_v2.dim_business_units")
    division = dict(zip(units["business_unit"], units["division"], strict=True))
    told = 0
    for unit in sorted(set(weekly["business_unit"])):
        stage_units(target, [unit])
        for comparison in list_comparisons(definitions):
            if division[unit] not in comparison.kpi.divisions:
                continue  # such a unit has no row of it
            for week in weeks.itertuples():
                window = find_window(comparison, week.week_start, week.last_day)
                ours = bridge.compute_number(load_our_rows(target, comparison, window), comparison)
                value = expected.at[(week.week_start, unit), comparison.name]
                value = 0.0 if pd.isna(value) else float(value)
                where = (comparison.name, unit, week.week_start, comparison.definition.departures)
                assert math.isclose(float(ours), value, rel_tol=1e-8, abs_tol=1e-8), where
                told += bool(ours)
    return told


def check_what_is_known(target: Warehouse, definitions: Definitions) -> None:
    """Every row that counts meets the chosen options, and its terms are its amounts."""
    units = target.query("SELECT DISTINCT business_unit FROM st_ref_v2.dim_business_units")["business_unit"]
    stage_units(target, units)
    for comparison in list_comparisons(definitions):
        window = find_window(comparison, date(2025, 8, 4), date(2025, 8, 31))
        ours = load_our_rows(target, comparison, window).head(400)
        known = load_known_keys(target, comparison, window, ours["key"], TIME_ZONE)
        rows = ours.merge(known, on="key", how="left", validate="one_to_one")
        definition = comparison.definition
        assert rows["is_exact"].eq(True).all(), definition
        assert set(condition_bits(comparison.kpi)) <= set(rows.columns)
        for name in comparison.kpi.conditions:
            assert rows[f"{name.name}:{definition[name.name].id}"].all(), (name.name, definition.departures)
        assert rows["in_unit"].all() and rows["in_division"].all() and rows["was_known"].all(), definition.departures
        if not comparison.net:
            for amount in comparison.amounts:
                assert (rows[f"term:{amount.name}"] == rows[amount.name]).all(), (amount.name, definition.departures)


def list_everything(target: Warehouse, comparison: Comparison) -> exports.Export:
    """An export with everything that the KPI's report could list, each amount 1."""
    columns = [comparison.kpi.columns.get(column, column) for column in comparison.key.values()]
    keys = target.query(
        f"SELECT DISTINCT {', '.join(columns)} FROM st_ref_v2.{comparison.kpi.candidates} "
        f"WHERE ({comparison.report.row}) AND {columns[0]} IS NOT NULL"
    )
    fields = dict.fromkeys(field for amount in comparison.amounts for field in amount.fields)
    header = [field.replace("_", " ").title() for field in (*comparison.key, *fields)]
    return exports.read_table("everything", [header, *([*map(str, row), *(1 for _ in fields)] for row in keys.values)])


def check_reasons(target: Warehouse, definitions: Definitions) -> int:
    """Every row of an export with everything has a reason that is said in words; how many KPIs could be compared."""
    compared = 0
    for comparison in list_comparisons(definitions):
        export = list_everything(target, comparison)
        days = {"first_day": date(2025, 8, 4), "last_day": date(2025, 8, 31)}
        unit = f"Phoenix-{comparison.kpi.division}"
        try:
            result = compare.compare(export, target, kpi=comparison.name, business_unit=unit, **days)
        except UserError as error:
            assert "no column of it is known for" in str(error)  # another error is a failure
            continue
        differing = result.rows[result.rows["side"] != IDENTICAL]
        assert result.residual == 0
        assert differing["reason"].notna().all() and (differing["fails"] != "").all()
        assert "stale" not in set(differing["reason"]), (comparison.name, comparison.definition.departures)
        only_ours = differing[differing["side"] == ONLY_WAREHOUSE]
        if "entity" not in comparison.definition.departures:  # else our rows are others than those of the report
            assert only_ours["key"].str.startswith("without").all(), comparison.definition.departures
        assert render.format_text(result)
        compared += 1
    return compared


def test_our_side_is_the_weekly_table_by_the_default_definitions(healthy):
    with warehouse.connect() as target:
        definitions = choose_definitions({})
        assert check_numbers(target, definitions, 0, 3) > 50
        check_what_is_known(target, definitions)
        assert check_reasons(target, definitions) == len(definitions)


# --- a company's own definition ---------------------------------------------------------------------------------------


def compare_leads(tenant, target: Warehouse) -> compare.Result:
    """ServiceTitan's own report Leads of the known week, compared."""
    header, rows = report(tenant, LEADS, ["Phoenix-Sales"], "2025-08-18", "2025-08-24")
    days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
    return compare.compare(exports.read_table("leads", [header, *rows]), target, business_unit="Phoenix-Sales", **days)


def test_rows_that_the_chosen_definition_leaves_out_say_so(healthy, tenant, monkeypatch):
    rebuild(choose_definitions({"leads": {"status": "completed"}}), monkeypatch)
    with warehouse.connect() as target:
        result = compare_leads(tenant, target)
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert (result.theirs, result.ours, result.residual) == (96, 73, 0)
    assert set(differing["side"]) == {ONLY_EXPORT}
    assert set(differing["reason"]) == {"status"}
    assert (differing["job_status"] != "Completed").all()
    assert f"{len(differing)} jobs only there, not completed" in render.summarize(result)
    assert any("departs from the default: status completed" in note for note in result.notes)


def test_rows_that_the_chosen_definition_counts_otherwise_say_so(healthy, tenant, monkeypatch):
    rebuild(choose_definitions({"leads": {"measure": "rows"}}), monkeypatch)
    with warehouse.connect() as target:
        result = compare_leads(tenant, target)
    assert (result.theirs, result.ours) == (97, 97)
    assert result.matches


def test_a_measure_that_the_report_has_no_column_for_is_refused():
    header = ["Job #", "Jobs Subtotal", "Labor Pay", "Payroll Adjustments", "Jobs Total Costs"]
    export = exports.read_table("cost", [header])
    with pytest.raises(UserError, match="cannot show GPM as it is defined here, measure purchases") as refused:
        infer_comparison(export, choose_definitions({"gpm": {"measure": "purchases"}}), "gpm")
    assert "no column of it is known for purchase orders" in str(refused.value)
    full = infer_comparison(export, choose_definitions({"gpm": {"measure": "full"}}), "gpm")
    assert {amount.name: amount.fields for amount in full.amounts} == {
        "produced": ("jobs_subtotal",),
        "full_cost": ("total_costs",),
    }


AUGUST = ("2025-08-18", "2025-08-24")


@pytest.mark.parametrize(
    ("kpi", "choices", "report_days", "days_read", "as_of"),
    [
        ("leads", {}, AUGUST, AUGUST, "2025-08-24"),
        ("leads", {"window": "exclusive_end"}, AUGUST, ("2025-08-18", "2025-08-23"), "2025-08-24"),
        ("leads", {"shift": "weeks_52"}, AUGUST, ("2024-08-19", "2024-08-25"), "2024-08-25"),
        ("outstanding_ar", {}, ("1900-01-01", "2025-08-24"), ("1900-01-01", "2025-08-24"), "2025-08-24"),
        ("outstanding_ar", {"window": "before"}, ("1900-01-01", "2025-08-24"), ("1900-01-01", "2025-08-23"),
         "2025-08-24"),
        ("future_bookings", {}, ("2025-08-18", "2026-08-18"), ("2025-08-18", "2026-08-18"), "2025-08-24"),
        ("future_bookings", {"window": "quarter"}, ("2025-08-18", "2025-11-22"), ("2025-08-18", "2025-11-22"),
         "2025-08-24"),
    ],
)  # fmt: skip
def test_the_days_of_a_week(kpi, choices, report_days, days_read, as_of):
    definition = choose_definitions({kpi: choices})[kpi]
    window = find_window(plan_comparison(definition, "fact"), date(2025, 8, 18), date(2025, 8, 24))
    days = [day.isoformat() for day in (window.first_day, window.last_day, *window.days_read, window.as_of)]
    assert days == [*report_days, *days_read, as_of]


def test_a_report_that_looks_ahead_states_its_own_range():
    comparison = plan_comparison(choose_definitions({})["future_bookings"], "fact")
    window = find_window(comparison, date(2025, 8, 18), date(2026, 8, 24))
    assert (window.first_day, window.last_day, window.as_of) == (
        date(2025, 8, 18),
        date(2026, 8, 24),
        date(2025, 8, 24),
    )


# --- the generated SQL ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The GoogleSQL analyzer, knowing the tables of this project and what a comparison stages."""
    found = of_this_project()
    found.declare(KEYS, (("key", "STRING"), ("first_key", "STRING")))
    found.declare(UNITS, (("business_unit", "STRING"),))
    return found


@pytest.mark.parametrize("draws", [0, pytest.param(6, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kpi", read_catalog().values(), ids=lambda kpi: kpi.name)
def test_every_query_is_googlesql_without_floats(kpi, judge, draws):
    rng = np.random.default_rng(draws)
    given = dict.fromkeys(("first_day", "last_day", "as_of"), "DATE") | {"time_zone": "STRING"}
    for number in (0, len(kpi) - 1, *rng.integers(len(kpi), size=draws)):
        definition = Definition(kpi, kpi.options(int(number)))
        table = f"st_mart_v2.{kpi.fact}"
        judge.declare(table, judge.analyze(fact_sql([definition]), marts.PARAMETERS))
        queries = []
        for form in (kpi.report, *kpi.report.otherwise):
            comparison = plan_comparison(definition, kpi.fact, form)
            queries += [our_rows_sql(comparison), known_keys_sql(comparison)]
            queries += [unit_keys_sql(comparison), count_known_keys_sql(comparison)]
            queries += [our_rows_sql(comparison, left_out=True)] if comparison.net else []
        queries += [our_rows_sql(plan_totals(definition, kpi.fact))] if kpi.report.totals else []
        for sql in queries:
            columns = judge.analyze(sql, {name: kind for name, kind in given.items() if f"@{name}" in sql})
            assert "FLOAT64" not in {kind for _, kind in columns}
