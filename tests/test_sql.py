"""The SQL under sql/ and of the registry: accepted by GoogleSQL's analyzer, and right on small cases on two engines.

A case (tests/cases/*.yml) gives raw rows and expects rows of its target, compared on the columns that it names. DuckDB
and GoogleSQL's reference implementation must agree on every column of the target: from the same tables that it reads,
and (`make soak`) from the raw rows on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml
from zetasql_judge import LANDING, OWNED, Columns, Judge, Rejected, Row, of_this_project

from stkpi.ingest import load as loading
from stkpi.ingest import state
from stkpi.kpis import sql as kpi_sql
from stkpi.kpis.catalog import Kpi, read_catalog
from stkpi.kpis.definition import Definition, choose_definitions, name_facts
from stkpi.marts import build as marts
from stkpi.marts import history, increment
from stkpi.marts.increment import Plan
from stkpi.reconcile.definitions import evaluate
from stkpi.reconcile.observations import fetch, outcomes
from stkpi.servicetitan import entities
from stkpi.validation import run as validation
from stkpi.warehouse.dialect import to_duckdb
from stkpi.warehouse.schema import create_sql

CASES = Path(__file__).parent / "cases"
[ROOTS] = [table for table in state.TABLES if table.name == "st_ref_v2.roots"]  # reads itself: it must be there
PARAMETERS = marts.PARAMETERS
CATALOG = read_catalog()
MARTS = {mart.name: mart for mart in marts.list_marts(choose_definitions({}))}
CHECKS = sorted((marts.SQL / "checks").glob("*.sql"))
DAYS = {"first_day": "DATE", "last_day": "DATE", "time_zone": "STRING"}
LINE = {
    **dict.fromkeys(("run_id", "entity", "mode", "source", "status", "digest", "cycle", "missing"), "STRING"),
    **dict.fromkeys(("window_start", "window_end", "now", "began", "oldest_deleted"), "TIMESTAMP"),
    **dict.fromkeys(("fetched", "total", "deleted"), "INT64"),
    "seconds": "FLOAT64",
}


RAW = {
    entity.table: tuple((field.name, field.type) for field in (*entity.fields, *entities.METADATA))
    for entity in entities.ENTITIES.values()
} | OWNED


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The analyzer, knowing the tables of this project."""
    return of_this_project()


# --- the analyzer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entity", entities.ENTITIES.values(), ids=lambda entity: entity.name)
def test_what_loads_an_entity_is_googlesql(judge, entity):
    projected = judge.analyze(entities.projection_sql(entity, LANDING))
    fields = tuple((field.name, field.type) for field in entity.fields)
    assert projected == (
        *fields, ("_key", "STRING"), ("_hash", "STRING"), ("_record", "JSON"), ("_seq", "INT64"), ("_reject", "STRING")
    )  # fmt: skip
    batch = {
        "_seq": "INT64",
        "_digest": "STRING",
        "_text": "STRING",
        "_refused": "STRING",
        "_fits": "BOOL",
        "_ordinal": "INT64",
    }
    plain = {f.name: f.type if f.type in ("INT64", "BOOL", "FLOAT64") else "STRING" for f in entity.fields}
    judge.declare("st_stage_v2.batch", tuple((plain | batch).items()))
    assert judge.analyze(entities.typing_sql(entity, "st_stage_v2.batch")) == projected
    judge.declare("st_stage_v2.typed", projected)
    window = loading.Reading(entity, "run", "full", "list")
    for statement in (
        *loading.quarantine_sql("st_stage_v2.typed"),
        loading.merge_sql(entity, "st_stage_v2.typed", overwrites=True),
        loading.merge_sql(entity, "st_stage_v2.typed", skips_deleted=True),
        loading.insert_sql(entity, "st_stage_v2.typed", skips_deleted=True),
        loading.known_sql(entity, "st_stage_v2.typed"),
        loading.month_counts_sql(entity, "st_stage_v2.typed"),
        *(
            statement
            for reading in (window, replace(window, undated=True))
            for statement in (
                loading.gone_rows_sql(reading, "st_stage_v2.typed"),
                *loading.remove_sql(reading, "st_stage_v2.typed"),
                loading.clean_quarantine_sql(reading, "st_stage_v2.typed"),
            )
        ),
        loading.revive_sql("st_stage_v2.typed"),
        loading.log_sql(entity, "st_stage_v2.typed"),
    ):
        judge.analyze(statement, LINE)


@pytest.mark.parametrize("name", MARTS)
def test_every_mart_is_googlesql_without_floats(judge, name):
    columns = judge.tables[name]  # by an analysis of its SELECT
    assert "FLOAT64" not in {kind for _, kind in columns}
    assert MARTS[name].sql.startswith(("-- Grain: ", "-- Kind: view\n-- Grain: "))


def test_a_view_takes_no_parameters(judge):
    views = [mart for mart in MARTS.values() if mart.kind == "VIEW"]
    # three for dashboards, regional_kpis among them, the candidates of jobs, payments and receivables, and what units
    # and job types count as
    assert len(views) == 7
    assert all(judge.analyze(view.sql) for view in views)


def test_an_increment_is_googlesql(judge):
    judge.declare(increment.COMPARED_RECORDS, judge.analyze(MARTS[increment.RECORDS].sql, PARAMETERS))
    bounds = (marts.SQL / "increment" / "bounds.sql").read_text(encoding="utf-8")
    kinds = dict(judge.analyze(bounds, {"oldest": "TIMESTAMP", "oldest_customer": "TIMESTAMP"}))
    assert {name: kinds[name] for name in PARAMETERS.keys() & kinds.keys()} == {
        "changed_from": "DATE",
        "created_from": "TIMESTAMP",
    }
    for mart in MARTS.values():
        if mart.kind == "TABLE":
            judge.analyze(mart.create_sql, PARAMETERS)
        if mart.replaces:
            known = increment.COMPARED_RECORDS if mart.name == increment.RECORDS else ""
            for statement in (*mart.replace_sql(), *mart.replace_sql(known)):
                judge.analyze(statement, PARAMETERS)


@pytest.mark.parametrize("recounted", [(), ("leads",)])
def test_what_a_build_keeps_of_what_it_restates_is_googlesql(judge, recounted):
    definitions = choose_definitions({"gpm": {"status": "completed"}})
    built = marts.list_marts(definitions)
    for mart in built:
        if mart.kind == "TABLE" and (".fact_" in mart.name or mart.name in (history.WEEKLY, increment.RECORDS)):
            found = judge.tables.get(mart.name) or judge.analyze(mart.sql, PARAMETERS)
            judge.declare(mart.name, found)
            judge.declare(f"st_stage_v2.before_{mart.name.partition('.')[2]}", found)
    columns = {name: dict(found) for name, found in judge.tables.items()}
    given = PARAMETERS | {"noted_at": "TIMESTAMP", "since": "TIMESTAMP", "most": "INT64", "reason": "STRING"}
    for plan in (Plan("increment", "", recounted=recounted), Plan("full", "", recounted=recounted)):
        statements = history.list_statements(columns, {m.name: m.replaces for m in built}, definitions, plan)
        assert sum("fact_history" in statement.partition("(")[0] for statement in statements[3:]) == 10 - len(recounted)
        for statement in statements:
            judge.analyze(statement, given)
    for name, definition in definitions.items():
        failing = kpi_sql.failing_sql(definition, name_facts(definitions)[name])
        assert judge.analyze(failing, given) == (("row_key", "STRING"), ("failed", "STRING"))


def test_what_the_pages_ask_is_googlesql(judge):
    definitions = choose_definitions({})
    found = judge.analyze(kpi_sql.figures_sql(definitions), {"periods": "STRING", "as_of": "DATE"})
    assert {"place_kind", "place", "first_day", "last_day", *definitions} <= {name for name, _ in found}
    assert "FLOAT64" not in {kind for _, kind in found}
    for drill in dict.fromkeys(drill.sql for drill in kpi_sql.list_drills(definitions).values()):
        rows = dict(judge.analyze(drill, {"first_day": "DATE", "days": "STRING"}))
        assert {"day", "unit", "job_id", "customer"} <= rows.keys()
        assert {kind for name, kind in rows.items() if name.startswith("part_")} <= {"INT64", "NUMERIC"}
    facts, days = name_facts(definitions), {"unit": "STRING", "first": "DATE", "last": "DATE"}
    for name, chosen in definitions.items():
        for other in draw_definitions(len(name)), {name: Definition(chosen.kpi, chosen.kpi.options(0))}:
            jobs = judge.analyze(kpi_sql.differing_jobs_sql(chosen, other[name], facts[name]), PARAMETERS | days)
            assert dict(jobs) == dict.fromkeys(("side", "job", "customer", "type", "status"), "STRING") | {
                "job_id": "INT64"
            }


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_every_check_is_googlesql(judge, path):
    assert judge.analyze(validation.read_check_sql(path.stem, choose_definitions({})), PARAMETERS)


@pytest.mark.parametrize("path", sorted((marts.SQL / "proposal").glob("*.sql")), ids=lambda path: path.stem)
def test_what_a_proposal_asks_is_googlesql(judge, path):
    assert judge.analyze(path.read_text(encoding="utf-8"), {"since": "DATE"})


def draw_definitions(seed: int) -> dict[str, Definition]:
    """A random definition of every KPI."""
    random = np.random.default_rng(seed)
    return {name: Definition(kpi, kpi.options(int(random.integers(len(kpi))))) for name, kpi in CATALOG.items()}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(12))
def test_every_statement_of_a_random_definition_is_googlesql(judge, seed, monkeypatch):
    monkeypatch.setattr(judge, "tables", dict(judge.tables))  # the other tests want the facts of the default
    definitions = draw_definitions(seed)
    for mart in marts.list_marts(definitions):
        if mart.name.startswith("st_mart_v2."):
            columns = judge.analyze(mart.sql, PARAMETERS)
            assert "FLOAT64" not in {kind for _, kind in columns}, mart.name
            judge.declare(mart.name, columns)
    assert judge.analyze(kpi_sql.numbers_sql(definitions, definitions), {"numbers": "STRING"}) == (
        ("id", "STRING"),
        ("value", "NUMERIC"),
    )
    for definition in definitions.values():
        [(name, kind)] = judge.analyze(kpi_sql.definition_sql(definition), DAYS | {"business_unit": "STRING"})
        assert (name, kind in ("INT64", "NUMERIC")) == ("value", True)


@pytest.mark.parametrize("kpi", CATALOG.values(), ids=CATALOG)
def test_every_option_of_the_catalog_is_googlesql(judge: Judge, kpi: Kpi):
    query = evaluate.candidates_query_sql(kpi, every_day=kpi.is_level)
    columns = dict(judge.analyze(query, {"time_zone": "STRING", "days": "STRING"}))
    dates = {option.says: columns[option.says] for option in kpi["date"]}
    assert dates == {column: "DATE" if kpi_sql.is_calendar_date(column) else "TIMESTAMP" for column in dates}


def test_what_the_ledger_of_observed_numbers_asks_and_remembers_is_googlesql(judge):
    for table in (outcomes.TABLE, fetch.TABLE):
        judge.declare_ddl(create_sql(table))
    texts = dict.fromkeys(("source", "lines", "report", "names", "modified"), "STRING") | {"runs": "INT64"}
    for statement in (
        outcomes.MATCHED_BEFORE,
        outcomes.FROM_API,
        outcomes.KEEP,
        outcomes.HISTORY,
        fetch.SEEN,
        fetch.REMEMBER,
    ):
        judge.analyze(statement, texts | {"at": "TIMESTAMP"})


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT nothing_of_the_kind FROM st_raw_v2.raw_jobs", "Unrecognized name"),
        ("SELECT id FROM st_raw_v2.raw_job", "Table not found"),
        ("SELECT id + jobNumber FROM st_raw_v2.raw_jobs", "No matching signature"),
        ("SELECT jobStatus, COUNT(*) FROM st_raw_v2.raw_jobs", "neither grouped nor aggregated"),
        ("SELECT DATE(createdOn, @zone) FROM st_raw_v2.raw_jobs", "parameter 'zone' not found"),
        ("SELECT STRFTIME(createdOn, '%Y') FROM st_raw_v2.raw_jobs", "Function not found"),
        ("WITH rollup AS (SELECT 1 AS x) SELECT x FROM rollup", "ROLLUP"),
    ],
)
def test_what_bigquery_would_refuse_is_rejected(judge, sql, complaint):
    with pytest.raises(Rejected, match=complaint):
        judge.analyze(sql)


# --- given, expect ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """`given` holds typed rows of raw tables by full name; `expect` the rows of `target`, by some columns."""

    target: str
    parameters: dict[str, Any]
    given: dict[str, list[Row]]
    expect: list[Row]


def load(path: Path) -> Case:
    """The case of a file, over the company that all cases share."""
    company, case = (yaml.safe_load(p.read_text(encoding="utf-8")) for p in (CASES / "company.yml", path))
    given = company["given"] | case["given"]
    names = {name.partition(".")[2]: name for name in RAW}
    return Case(
        target=case["target"],
        parameters=asdict(increment.Bounds()) | company["parameters"] | case.get("parameters", {}),
        given={names[table]: [typed(row, RAW[names[table]]) for row in rows] for table, rows in given.items()},
        expect=case["expect"],
    )


def typed(row: Row, columns: Columns) -> Row:
    """A row of YAML with money as decimals and JSON as text. A name that is not a column is a mistake in the case."""
    kinds = dict(columns)
    convert = {"NUMERIC": lambda value: Decimal(str(value)), "JSON": json.dumps}
    return {name: convert.get(kinds[name], lambda value: value)(value) for name, value in row.items()}


def needed(target: str, known: Iterable[str] = ()) -> list[marts.Mart]:
    """The marts that the target is made of, in order of building, itself last. What is known is not made."""
    wanted = {target}
    for mart in reversed(MARTS.values()):
        if mart.name in wanted:
            wanted |= mart.reads.difference(known)
    return [mart for mart in MARTS.values() if mart.name in wanted]


def on_duckdb(case: Case) -> dict[str, list[Row]]:
    """The target and all that it is made of."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone='UTC'")
    for dataset in ("st_raw_v2", "st_ref_v2", "st_mart_v2"):
        connection.execute(f"CREATE SCHEMA {dataset}")
    for table, columns in RAW.items():
        declared = ", ".join(f"`{name}` {kind}" for name, kind in columns)
        connection.execute(*to_duckdb(f"CREATE TABLE {table} ({declared})"))
        for row in case.given.get(table, ()):
            names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))
    connection.execute(*to_duckdb(create_sql(ROOTS)))
    for mart in needed(case.target):
        [statement] = to_duckdb(f"CREATE OR REPLACE TABLE {mart.name} AS\n{mart.sql}")
        used = {name: value for name, value in case.parameters.items() if f"${name}" in statement}
        connection.execute(statement, used)
    built = {}
    for mart in needed(case.target):
        result = connection.execute(f"SELECT * FROM {mart.name}")
        names = [column[0] for column in result.description]
        built[mart.name] = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    return built


def on_zetasql(judge: Judge, case: Case, known: dict[str, list[Row]]) -> list[Row]:
    """The target, made of what is known and of what it makes of the raw rows."""
    tables = case.given | known
    parameters = {name: (PARAMETERS[name], value) for name, value in case.parameters.items()}
    for mart in needed(case.target, known):
        tables[mart.name] = judge.evaluate(mart.sql, tables, parameters)
    return tables[case.target]


def counted(rows: list[Row], columns: list[str]) -> Counter:
    """Rows without an order; 10, 10.00 and Decimal(10) are the same number."""
    number = (int, float, Decimal)
    return Counter(
        tuple(
            Decimal(str(value)).normalize() if isinstance(value, number) and not isinstance(value, bool) else value
            for value in map(row.__getitem__, columns)
        )
        for row in rows
    )


@pytest.mark.fault(84, 122)
@pytest.mark.parametrize(
    "alone", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["alone", "from the raw rows"]
)
@pytest.mark.parametrize("path", sorted(set(CASES.glob("*.yml")) - {CASES / "company.yml"}), ids=lambda path: path.stem)
def test_case(judge, path, alone):
    case = load(path)
    columns = list(case.expect[0])
    built = on_duckdb(case)
    duckdb_rows = built.pop(case.target)
    zetasql_rows = on_zetasql(judge, case, built if alone else {})
    assert counted(duckdb_rows, columns) == counted(case.expect, columns)
    every_column = list(zetasql_rows[0])
    assert counted(duckdb_rows, every_column) == counted(zetasql_rows, every_column)


def test_every_fact_and_kpi_table_has_a_case():
    targets = {load(path).target for path in CASES.glob("*.yml") if path.stem != "company"}
    assert {name for name in MARTS if name.startswith("st_mart_v2.")} <= targets
