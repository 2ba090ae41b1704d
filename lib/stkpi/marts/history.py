"""Keep what a build restates: the weekly figures that are others now, the fact rows behind them, and their records.

Before a build computes anything, the rows that it is going to replace are copied to the stage; at its end they are laid
beside what stands there now, and only the differences are kept, in st_logs_v2: kpi_history, fact_history and
record_history. A KPI that counts by another definition leaves one line. What a build that was killed has replaced is
still on the stage for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from stkpi import settings
from stkpi.kpis import sql
from stkpi.kpis.definition import Definition, name_facts
from stkpi.marts import increment
from stkpi.marts.increment import Bounds, Plan
from stkpi.warehouse import Warehouse

WEEKLY = "st_mart_v2.kpi_weekly_by_bu"
TABLES = ("st_logs_v2.kpi_history", "st_logs_v2.fact_history", "st_logs_v2.record_history")
DEFINITION, PROGRAM = "definition", "program"  # why all figures of a KPI are others
MOST_ROWS = 20_000  # changed rows of a fact that a build keeps; of more, only the figures
RECORDS_SQL = settings.ROOT / "sql" / "increment" / "changed_records.sql"


def keep_before(
    target: Warehouse, replaces: Mapping[str, str], definitions: Mapping[str, Definition], plan: Plan
) -> None:
    """Copy the rows that a build is going to replace, unless it replaces none that anybody has seen.

    replaces: the condition of the rows that an increment replaces, by the name of the mart; empty: all of them
    """
    if not _restates(plan):
        return
    columns = target.list_columns("st_ref_v2", "st_mart_v2", "st_stage_v2")
    for table in _list_compared(definitions):
        stage = _name_stage(table)
        if table not in columns:  # a fact that the build makes for the first time
            target.drop(stage)
            continue
        replaced = f"({replaces[table]})" if plan.mode != "full" else "TRUE"
        copy = f"SELECT * FROM {table} WHERE {replaced}"
        if plan.interrupted and columns.get(stage) == columns[table]:
            # These rows may be new already; how they were is on the stage, and nothing else there was replaced.
            was = f"({replaces[table]})".replace("@c", "@interrupted_c") if plan.interrupted != Bounds() else "TRUE"
            copy = f"SELECT * FROM {stage} WHERE {was}\nUNION ALL\n{copy} AND NOT {was}"
        values = asdict(plan.bounds) | _name_interrupted(plan)
        target.execute(f"CREATE OR REPLACE TABLE {stage} AS\n{copy}", **values)


def note_changes(
    target: Warehouse, replaces: Mapping[str, str], definitions: Mapping[str, Definition], plan: Plan
) -> None:
    """Keep the differences between the rows before and after a build; forget those of a build that did not end."""
    if not _restates(plan):
        return
    columns = target.list_columns("st_ref_v2", "st_mart_v2", "st_stage_v2")
    statements = list_statements(columns, replaces, definitions, plan)
    target.run_transaction(
        *statements,
        noted_at=datetime.now(UTC),
        since=plan.since,
        most=MOST_ROWS,
        reason=PROGRAM if increment.EVERY in plan.recounted else DEFINITION,
        **asdict(plan.bounds),
    )
    target.drop(*(_name_stage(table) for table in _list_compared(definitions)))


def list_statements(
    columns: Mapping[str, Mapping[str, str]],
    replaces: Mapping[str, str],
    definitions: Mapping[str, Definition],
    plan: Plan,
) -> list[str]:
    """Return the statements, to be one transaction, that keep the differences; they take @noted_at, @since, @most,
    @reason and the plan's bounds.

    columns: those of the tables that there are, by full name
    """
    return [
        *(f"DELETE FROM {table} WHERE noted_at > @since" for table in TABLES),
        *_figures_sql(columns, definitions, plan),
        *_rows_sql(columns, replaces, definitions, plan),
        "INSERT INTO st_logs_v2.record_history (noted_at, entity, record_key, job_id, what)\n"
        f"SELECT @noted_at, * FROM (\n{RECORDS_SQL.read_text(encoding='utf-8')})",
    ]


def _restates(plan: Plan) -> bool:
    return plan.since is not None and plan.mode in ("full", "increment")


def _list_compared(definitions: Mapping[str, Definition]) -> list[str]:
    return [
        *(f"{sql.MART}.{table}" for table in dict.fromkeys(name_facts(definitions).values())),
        WEEKLY,
        increment.RECORDS,
    ]


def _name_stage(table: str) -> str:
    return f"st_stage_v2.before_{table.partition('.')[2]}"


def _name_interrupted(plan: Plan) -> dict[str, object]:
    return {f"interrupted_{name}": value for name, value in asdict(plan.interrupted or Bounds()).items()}


def _figures_sql(
    columns: Mapping[str, Mapping[str, str]], definitions: Mapping[str, Definition], plan: Plan
) -> Iterator[str]:
    """The statements that keep the figures: each one of a KPI that counts as before, one line of all of another."""
    before = columns.get(_name_stage(WEEKLY), {})
    known = {name: d for name, d in definitions.items() if {name, *d.kpi.sums} <= before.keys()}
    again = {name: d for name, d in known.items() if {name, increment.EVERY} & set(plan.recounted)}
    others = [d for name, d in known.items() if name not in again]
    into = "INSERT INTO st_logs_v2.kpi_history"
    if others:
        fields = "kpi, business_unit, week_start, value, value_before, part, part_before, whole, whole_before"
        yield (
            f"{into} (noted_at, before_at, {fields})\n"
            f"SELECT @noted_at, @since, {fields} FROM (\n{sql.changed_figures_sql(others)})"
        )
    if again:
        yield (
            f"{into} (noted_at, before_at, kpi, figures, reason)\nSELECT @noted_at, @since, kpi, COUNT(*), @reason\n"
            f"FROM (\n{sql.changed_figures_sql(again.values())})\nGROUP BY kpi"
        )


def _rows_sql(
    columns: Mapping[str, Mapping[str, str]],
    replaces: Mapping[str, str],
    definitions: Mapping[str, Definition],
    plan: Plan,
) -> Iterator[str]:
    """The statements that keep the rows behind the figures of the KPIs that count as before."""
    facts, fields = name_facts(definitions), "side, times, event_date, business_unit, job_id, row_key, row_text"
    for table in dict.fromkeys(facts.values()):
        name = f"{sql.MART}.{table}"
        both = [column for column in columns[name] if column in columns.get(_name_stage(name), {})]
        sharing = [
            d
            for kpi, d in definitions.items()
            if facts[kpi] == table
            and not {kpi, increment.EVERY} & set(plan.recounted)
            and {*sql.measured_columns(d), *filter(None, [sql.group_column(d)])} <= set(both)
        ]
        if sharing:
            rows = sql.changed_rows_sql(sharing, table, both, replaces[name] if plan.mode != "full" else "")
            yield (
                f"INSERT INTO st_logs_v2.fact_history (noted_at, fact, {fields})\n"
                f"SELECT @noted_at, '{table}', {fields} FROM (\n{rows})"
            )
